"""The return of escapes: a process born outside of its call's cgroup, or leaving it, is moved in.

The cases take any source and any kernel; tests/unit/monitor and tests/kernel choose them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import agentcgroup
from agentcgroup import CallRecord, Session
from agentcgroup.cgroup import Cgroup
from agentcgroup.place.locate import CgroupLocator
from tests.support.processes import until

__all__ = [
    "ROUNDS",
    "WAYS",
    "born_outside",
    "escapes",
    "left",
    "left_and_the_call_ends",
    "outlived",
]

ROUNDS = 600
WAYS = ("by_posix_spawn", "by_clone", "by_double_fork")


@pytest.fixture(scope="session")
def escapes(tmp_path_factory: pytest.TempPathFactory) -> ctypes.PyDLL:
    """Build the library; PyDLL holds the interpreter's lock, as a C extension may."""
    built = tmp_path_factory.mktemp("escapes") / "escapes.so"
    source = Path(__file__).with_name("escapes.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", built, source], check=True)
    return ctypes.PyDLL(str(built))


def _start(library: ctypes.PyDLL, way: str, *argv: str) -> int:
    words = [word.encode() for word in argv]
    pid = getattr(library, way)((ctypes.c_char_p * (len(words) + 1))(*words, None))
    assert isinstance(pid, int)
    assert pid > 0
    return pid


def _cgroup_of(call: agentcgroup.Call) -> str:
    cgroup = None if call.contained is None else call.contained.group.cgroup
    return "" if cgroup is None else cgroup.path


def born_outside(session: Session, library: ctypes.PyDLL, way: str, rounds: int) -> None:
    """Each process is in the cgroup of its call while the call runs, and has ended after it."""
    moved_in = 0
    for number in range(rounds):
        with agentcgroup.call("tool") as call:
            if number % 2:
                # This call has a cgroup already; a fork that joins by itself is no escape.
                subprocess.run(["true"], preexec_fn=int if number % 4 == 3 else None)
            pid = _start(library, way, "/bin/sleep", "60")

            def inside(call: agentcgroup.Call = call) -> bool:
                return bool(call.pids())

            moved_in += until(inside)
            if way == "by_double_fork":
                os.waitpid(pid, 0)
                assert call.pids() != [pid]
            else:
                assert call.pids() == [pid]
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
    records = session.records[-rounds:]
    assert moved_in == rounds
    # Of a daemon the process in between escapes, and itself where that forked before it was moved
    # in; a call that leaves one waits for the helper's answer for a short time only.
    expected = {1, 2, None} if way == "by_double_fork" else {1}
    found = Counter(record.escapes for record in records)
    assert found.keys() <= expected, found
    assert {record.outcome for record in records} == {"ok"}


@contextlib.contextmanager
def _elsewhere(session: Session) -> Iterator[str]:
    """Make a cgroup outside of the run."""
    assert session._services.cgroups.place.base is not None
    with contextlib.closing(Cgroup.open(session._services.cgroups.place.base)) as base:
        other = base.child(f"elsewhere-{os.getpid()}")
    try:
        yield other.path
    finally:
        other.remove()
        other.close()


def left(session: Session, rounds: int) -> None:
    """A process that writes itself into another cgroup is moved back, each time."""
    where = CgroupLocator()
    back = 0
    with _elsewhere(session) as elsewhere:
        script = f"echo 0 > {elsewhere}/cgroup.procs && echo && exec sleep 60"
        for _ in range(rounds):
            with agentcgroup.call("tool") as call:
                child = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE)
                assert child.stdout is not None
                assert child.stdout.readline() == b"\n"
                own = _cgroup_of(call)
                back += until(lambda: where.of(child.pid) == own)  # noqa: B023 - called at once
                child.kill()
                child.communicate()
    assert back == rounds
    found = Counter(record.escapes for record in session.records[-rounds:])
    assert found == {1: rounds}, found


def left_and_the_call_ends(session: Session) -> CallRecord:
    """With escape = "kill" it ends the call; returns the call's record."""
    with _elsewhere(session) as elsewhere:
        script = f"echo 0 > {elsewhere}/cgroup.procs; exec sleep 60"
        with pytest.raises(agentcgroup.LimitExceeded) as caught, agentcgroup.call("tool"):
            subprocess.run(["sh", "-c", script])
    return caught.value.record


def outlived(session: Session, library: ctypes.PyDLL, way: str) -> None:
    """A process that C code started in a call that ends at once is ended like any leftover."""
    with agentcgroup.call("tool"):
        pid = _start(library, way, "/bin/sleep", "60")
    if way == "by_double_fork":
        os.waitpid(pid, 0)
        return
    ended: list[int] = []

    def over() -> bool:
        found, status = os.waitpid(pid, os.WNOHANG)
        ended.append(status)
        return found == pid

    assert until(over)
    assert os.WTERMSIG(ended[-1]) in (signal.SIGTERM, signal.SIGKILL)
