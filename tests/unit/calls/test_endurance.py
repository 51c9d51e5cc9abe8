"""Many calls: at once, in a row, and with the supervisor shot in the middle. Real processes."""

from __future__ import annotations

import gc
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

import agentcgroup
from agentcgroup import Session
from agentcgroup.cgroup import Cgroup
from tests.support.crowd import cgroups_at_once
from tests.support.processes import running, until


@pytest.fixture
def session() -> Iterator[Session]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))
    session = agentcgroup.register("langchain", config={"records_max": 100})
    yield session
    agentcgroup.unregister()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _cgroups(session: Session) -> int:
    _ = session.records  # waits for what is being cleared away
    run = session._services.cgroups.branch()
    assert run is not None
    return sum(1 for _ in os.walk(run.cgroup.path))


def _true() -> None:
    with agentcgroup.call("true"):
        subprocess.run(["true"])


@pytest.mark.timeout(900)
def test_ten_thousand_calls_in_a_row_grow_nothing(session: Session) -> None:
    """Neither descriptors nor memory nor cgroups after 10,000 calls with a process each."""
    for _ in range(3000):  # heaps and caches grow to their size first
        _true()
    cgroups, descriptors = _cgroups(session), _descriptors()
    gc.collect()
    resident = _resident()
    for _ in range(10_000):
        _true()
    assert _cgroups(session) == cgroups
    assert until(lambda: _descriptors() == descriptors)
    gc.collect()
    # One kilobyte kept per call would be ten megabytes.
    assert _resident() - resident < 5 << 20


@pytest.mark.timeout(900)
def test_a_thousand_calls_at_once(session: Session) -> None:
    """All have their cgroup at the same time, and none is left after."""
    _true()
    cgroups, descriptors = _cgroups(session), _descriptors()
    assert len(cgroups_at_once(1000)) == 1000
    assert _cgroups(session) == cgroups
    assert until(lambda: _descriptors() == descriptors)


_SUPERVISOR = """
import subprocess, sys, threading
import agentcgroup
session = agentcgroup.register("langchain", config={"cgroup_root": sys.argv.pop(1)})
together = threading.Barrier(51)
def one():
    with agentcgroup.call("sleep"):
        child = subprocess.Popen(sys.argv[1:])
        together.wait()
        child.wait()
for _ in range(50):
    threading.Thread(target=one, daemon=True).start()
together.wait()
print(session._services.cgroups.branch().cgroup.path, flush=True)
threading.Event().wait()
"""
_NEXT = "import agentcgroup; agentcgroup.register('langchain').records"
#: Registers, says so, and makes no call until its input ends.
_IDLE = """
import sys, agentcgroup
agentcgroup.register("langchain", config={"cgroup_root": sys.argv[1]}).records
print(flush=True)
input()
"""


def test_what_a_killed_supervisor_left_is_gone_at_the_next_start(box: Cgroup) -> None:
    """SIGKILL during 50 running calls: their processes live on, until the next start.

    In a cgroup of their own: any other program that starts meanwhile would end them, too.
    """
    sleep = ("sleep", f"3600.{os.getpid()}")  # tells these sleeps from all others
    with subprocess.Popen(
        [sys.executable, "-c", _SUPERVISOR, box.path, *sleep], stdout=subprocess.PIPE, text=True
    ) as supervisor:
        assert supervisor.stdout is not None
        run = supervisor.stdout.readline().strip()
        supervisor.send_signal(signal.SIGKILL)
    assert os.path.isdir(run)
    assert len(running(*sleep)) == 50
    with subprocess.Popen(
        [sys.executable, "-c", _IDLE, box.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as idle:
        assert idle.stdout is not None
        assert idle.stdout.readline() == "\n"
        assert until(lambda: not running(*sleep))
        idle.communicate("\n")
    assert idle.returncode == 0
    assert not os.path.exists(run)


def test_a_living_run_is_left_alone_by_the_next_start(session: Session) -> None:
    """Only dead owners are reaped: this process is one that lives."""
    with agentcgroup.call("sleep"), subprocess.Popen(["sleep", "3600"]) as child:
        subprocess.run([sys.executable, "-c", _NEXT], check=True)
        assert child.poll() is None
        child.kill()
