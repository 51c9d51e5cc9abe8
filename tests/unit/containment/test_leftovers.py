"""What a tool leaves running: asked to end, given a moment, then killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import agentcgroup
from agentcgroup import LimitExceeded, Session
from tests.support.processes import SOON, ended, state, until

#: Makes a lock, leaves a process behind that removes it on SIGTERM, and tells its pid.
_LOCKER = """
import os, signal, sys, time
lock = sys.argv[1]
if os.fork():
    while not os.path.exists(lock): time.sleep(0.01)
    os._exit(0)
os.setsid()
def remove(*_):
    os.unlink(lock)
    os._exit(0)
signal.signal(signal.SIGTERM, remove)
with open(lock + ".tmp", "w") as file: file.write(str(os.getpid()))
os.rename(lock + ".tmp", lock)
while True: time.sleep(60)
"""
_SHELL = 'trap "rm $0; exit" TERM; echo $$ >"$0.tmp"; mv "$0.tmp" "$0"; while :; do sleep 0.1; done'


def _python(lock: Path) -> None:
    subprocess.run([sys.executable, "-ISc", _LOCKER, str(lock)], check=True)


def _shell(lock: Path) -> None:
    subprocess.Popen(["bash", "-c", _SHELL, str(lock)], start_new_session=True)


def _stopped(lock: Path) -> None:
    _python(lock)
    pid = int(lock.read_text())
    os.kill(pid, signal.SIGSTOP)
    assert until(lambda: state(pid) == "T")


_LEAVE: dict[str, Callable[[Path], object]] = {
    "python": _python,
    "shell": _shell,
    "stopped": _stopped,
}


@pytest.fixture
def session() -> Iterator[Session]:
    yield agentcgroup.register("langchain", config={})
    agentcgroup.unregister()


@pytest.mark.parametrize("leave", _LEAVE.values(), ids=_LEAVE)
def test_a_leftover_removes_its_lock(
    session: Session, tmp_path: Path, leave: Callable[[Path], object]
) -> None:
    """It has ended long before the grace is over, and so has the call."""
    lock = tmp_path / "lock"
    with agentcgroup.call("git", leftover_grace="60s"):
        leave(lock)
        assert until(lock.exists)
        pid = int(lock.read_text())
        began = time.monotonic()
    took = time.monotonic() - began
    (record,) = session.records
    assert (record.outcome, record.reason) == ("ok", "leftovers")
    assert ended(pid)
    assert not lock.exists()
    assert took < SOON / 2


def test_a_leftover_that_does_not_listen_is_killed(session: Session) -> None:
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True)\n"
    command = [sys.executable, "-ISc", f"{code}while True: time.sleep(60)"]
    began = time.monotonic()
    with agentcgroup.call("deaf", leftover_grace="300ms"):
        deaf = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert deaf.stdout is not None
        deaf.stdout.read(2)
        began = time.monotonic()
    assert time.monotonic() - began > 0.3
    assert deaf.wait() == -signal.SIGKILL
    assert session.records[0].reason == "leftovers"


def test_no_grace_is_sigkill_at_once(session: Session, tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with agentcgroup.call("git", leftover_grace=0):
        _python(lock)
    assert session.records[0].reason == "leftovers"
    assert ended(int(lock.read_text()))


def test_a_timeout_has_no_grace(session: Session, tmp_path: Path) -> None:
    lock = tmp_path / "lock"

    def hang() -> None:
        with agentcgroup.call("git", timeout="3s", leftover_grace="30s"):
            _python(lock)
            subprocess.run(["sleep", "60"])

    with pytest.raises(LimitExceeded):
        hang()
    assert session.records[0].outcome == "timeout"
    assert ended(int(lock.read_text()))


def test_what_ends_by_itself_is_no_leftover(session: Session) -> None:
    with agentcgroup.call("shell", leftover_grace="30s"):
        subprocess.run(["sh", "-c", "sleep 0.01 &"], check=True)
    assert session.records[0].reason is None


def test_a_leftover_without_a_cgroup_removes_its_lock(tmp_path: Path) -> None:
    """Where no cgroup can be made, the processes are followed by parentage."""
    lock = tmp_path / "lock"
    session = agentcgroup.register("langchain", config={"cgroup_root": "/no/such/cgroup"})
    try:
        with agentcgroup.call("git", leftover_grace="60s"):
            process = subprocess.Popen([sys.executable, "-ISc", _LOCKER_ALONE, str(lock)])
            assert until(lock.exists)
        assert process.wait() == 0
        assert session.records[0].reason == "leftovers"
        assert session.records[0].cgroup is None
        assert not lock.exists()
    finally:
        agentcgroup.unregister()


_LOCKER_ALONE = _LOCKER.replace("if os.fork():", "if False:")
