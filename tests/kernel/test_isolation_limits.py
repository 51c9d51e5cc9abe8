"""Limits on a tool's own Python code, which runs in a worker process in the call's cgroup."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

import agentcgroup
from agentcgroup import LimitExceeded, Session
from tests.kernel.support import MiB, processes_below


@pytest.fixture
def session(registered: Callable[..., Session]) -> Session:
    return registered(rules=[{"tool": "*", "isolation": "process", "memory_max": "256M"}])


@agentcgroup.isolate
def eat(mib: int) -> int:
    """Take memory piece by piece: at once, a small guest would refuse it."""
    return sum(map(len, [b"x" * MiB * 2 for _ in range(mib // 2)]))


@agentcgroup.isolate
def eaten_by_a_child(mib: int) -> int:
    code = f"x = [bytearray(b'x') * (2 << 20) for _ in range({mib} // 2)]"
    return subprocess.run([sys.executable, "-ISc", code]).returncode


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_body_over_its_memory_is_stopped_and_the_next_call_works(session: Session) -> None:
    assert eat(10) == 10 * MiB  # all is imported and forked by now
    before = _resident()
    with pytest.raises(LimitExceeded, match=r"256 ?Mi?B \(memory_max\)") as caught:
        eat(2048)
    assert abs(_resident() - before) < 5 * MiB
    record = caught.value.record
    assert (record.outcome, record.reason) == ("oom", "memory_max")
    assert record.isolation == "process"
    assert record.memory_peak_bytes is None or 250 * MiB < record.memory_peak_bytes <= 256 * MiB
    assert record.oom_kills
    assert eat(10) == 10 * MiB
    assert session.records[-1].outcome == "ok"


def test_a_child_of_the_body_over_its_memory_ends_the_call(session: Session) -> None:
    """With memory_oom_group the whole call goes; the worker is part of it."""
    with pytest.raises(LimitExceeded) as caught:
        eaten_by_a_child(1024)
    assert (caught.value.record.outcome, caught.value.record.reason) == ("oom", "memory_max")


def test_the_limits_stand_before_the_body_runs(session: Session) -> None:
    @agentcgroup.isolate(memory_max="128M", pids_max=50)
    def limits() -> list[str]:
        with open("/proc/self/cgroup") as file:
            path = "/sys/fs/cgroup" + file.read().strip().partition("::")[2]
        found = []
        for name in ("memory.max", "pids.max"):
            with open(f"{path}/{name}") as file:
                found.append(file.read().strip())
        return found

    for _ in range(3):  # forked for the call, and forked ahead of it
        assert limits() == [str(128 * MiB), "50"]
        time.sleep(0.5)


def test_reused_a_worker_is_counted_call_by_call(registered: Callable[..., Session]) -> None:
    session = registered(rules=[{"tool": "*", "isolation": "process", "reuse": 5}])

    @agentcgroup.isolate
    def take(mib: int) -> int:
        held = bytearray(mib << 20)
        held[::4096] = b"x" * len(held[::4096])
        return os.getpid()

    assert take(100) == take(1) == take(20)
    first, second, third = (record.memory_peak_bytes for record in session.records)
    if first is None:  # before 5.19
        return
    assert first > 100 * MiB
    # Reset by call since 6.12; before, a peak that did not rise is not known.
    assert second is None or second < 90 * MiB
    assert third is None or third < 90 * MiB


def test_calls_at_once_each_have_their_worker(session: Session) -> None:
    seen: list[int] = []

    @agentcgroup.isolate
    def pid() -> int:
        time.sleep(0.1)
        return os.getpid()

    threads = [threading.Thread(target=lambda: seen.append(pid())) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(seen)) == 30
    assert {record.outcome for record in session.records} == {"ok"}
    assert processes_below(session)  # the process that makes workers, and those that stand ready
