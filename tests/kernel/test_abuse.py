"""Tools that misbehave on purpose: each ends within its limits, nothing of it stays."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import agentcgroup
from agentcgroup import CallRecord, LimitExceeded, Session
from tests.kernel.support import MiB, processes_below
from tests.support.processes import until

#: No single one of these may hold the machine for longer, emulated as it may be.
_LONG = 60

_FORK_BOMB = (
    "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass\n"
)
_MEMORY_BOMB = "x = []\nwhile True:\n    x.append(bytearray(1 << 20))\n"
_BUSY_LOOP = "while True:\n    pass\n"
_DEAF = (
    "import signal, time\n"
    "for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):\n"
    "    signal.signal(number, signal.SIG_IGN)\n"
    "while True:\n    time.sleep(1)\n"
)
_DAEMON = (
    "import os, time\n"
    "if os.fork() == 0:\n"
    "    os.setsid()\n"
    "    if os.fork() == 0:\n"
    "        time.sleep(3600)\n"
    "    os._exit(0)\n"
    "os.wait()\n"
)


def _python(code: str) -> list[str]:
    return [sys.executable, "-ISc", code]


def _run(code: str, **limits: Any) -> CallRecord | None:
    """Run as a call of its own; returns the record of the limit that ended it."""
    try:
        with agentcgroup.call("abuse", **limits):
            subprocess.run(_python(code))
    except LimitExceeded as error:
        return error.record
    return None


def _leave_a_fork_bomb(call: agentcgroup.Call) -> None:
    """Have a shell start one and end; return once it was refused a process."""
    subprocess.run(["sh", "-c", '"$@" &', "sh", *_python(_FORK_BOMB)])
    assert call.contained is not None
    assert call.contained.group.cgroup is not None
    refused = Path(call.contained.group.cgroup.path, "pids.events")
    assert until(lambda: refused.read_text() != "max 0\n")


def test_a_memory_bomb_dies_at_its_limit(registered: Callable[..., Session]) -> None:
    """The kernel kills it, whole, and the peak says where."""
    session = registered()
    record = _run(_MEMORY_BOMB, memory_max=64 * MiB)
    assert record is not None
    assert (record.outcome, record.reason) == ("oom", "memory_max")
    assert record.memory_peak_bytes is not None
    assert abs(record.memory_peak_bytes - 64 * MiB) <= MiB
    assert processes_below(session) == []


def test_a_fork_bomb_stays_below_pids_max(registered: Callable[..., Session]) -> None:
    """It can have its processes and no more; then its time is over."""
    session = registered()
    began = time.monotonic()
    record = _run(_FORK_BOMB, pids_max=32, timeout="4s")
    assert record is not None
    assert record.outcome == "timeout"
    assert record.pids_peak is None or record.pids_peak <= 32
    assert time.monotonic() - began < _LONG
    assert processes_below(session) == []


def test_a_fork_bomb_that_left_is_killed_and_told(registered: Callable[..., Session]) -> None:
    """The shell that started it has ended well; what it left is at its limit and is ended."""
    session = registered()
    with (
        pytest.raises(LimitExceeded, match="pids_max") as caught,
        agentcgroup.call("abuse", pids_max=16) as call,
    ):
        _leave_a_fork_bomb(call)
    assert (caught.value.record.outcome, caught.value.record.reason) == ("killed", "pids_max")
    assert processes_below(session) == []


def test_a_call_that_memory_high_slows_down_is_told_so(registered: Callable[..., Session]) -> None:
    """It hangs until its timeout, and to be faster is no help."""
    session = registered()
    with (
        pytest.raises(LimitExceeded) as caught,
        agentcgroup.call("abuse", memory_high=16 * MiB, memory_max=64 * MiB, timeout="15s"),
    ):
        subprocess.run(_python("b = bytearray(50 << 20)\nwhile True:\n    pass\n"))
    record = caught.value.record
    assert record.outcome == record.reason == "timeout"
    assert record.memory_high_events
    assert "(memory_high), where the kernel slows processes down" in str(caught.value)
    assert processes_below(session) == []


def test_a_busy_loop_ends_with_its_time(registered: Callable[..., Session]) -> None:
    """And its CPU is bounded meanwhile, which the record shows."""
    session = registered()
    record = _run(_BUSY_LOOP, timeout="6s", cpu_max="20%")
    assert record is not None
    assert record.outcome == "timeout"
    assert record.throttled_s
    assert record.cpu_usage_s is not None
    assert record.cpu_usage_s < 0.5 * record.duration_s
    assert processes_below(session) == []


def test_a_tool_that_ignores_signals_ends_with_its_time(
    registered: Callable[..., Session],
) -> None:
    """SIGTERM is not asked for an opinion."""
    session = registered()
    record = _run(_DEAF, timeout="2s")
    assert record is not None
    assert record.outcome == "timeout"
    assert processes_below(session) == []


def test_a_daemon_ends_with_its_call(registered: Callable[..., Session]) -> None:
    """A double fork and a session of its own do not leave a cgroup."""
    session = registered()
    with agentcgroup.call("abuse"):
        subprocess.run(_python(_DAEMON))
    assert session.records[-1].reason == "leftovers"
    assert processes_below(session) == []


def test_a_daemon_may_stay_where_the_policy_keeps_it(registered: Callable[..., Session]) -> None:
    """Background = "keep": it goes on under its agent's cgroup, until the run ends."""
    session = registered(background="keep")
    with agentcgroup.call("abuse"):
        subprocess.run(_python(_DAEMON))
    assert session.records[-1].reason is None
    assert len(processes_below(session)) == 1


def _leave_as_maintenance(folder: Path, code: str) -> None:
    """Leave a process that has the command line of `git gc --auto`; its child runs the code."""
    (folder / "gc").write_text(
        "echo >started\nuntil [ -e go ]; do sleep 0.1; done\n" + '"$BOMB" -ISc "$CODE"'
    )
    subprocess.run(
        ["bash", "-c", '(exec -a git "$BASH" gc --auto) &'],
        check=True,
        cwd=folder,
        env={**os.environ, "BOMB": sys.executable, "CODE": code},
    )
    assert until((folder / "started").exists)


def test_the_name_of_maintenance_leaves_the_limits_of_the_call(
    registered: Callable[..., Session], tmp_path: Path
) -> None:
    """Its memory bomb ends itself, its fork bomb stays below pids_max and ends with the run."""
    session = registered()
    for name, code in (("memory", _MEMORY_BOMB), ("forks", _FORK_BOMB)):
        folder = tmp_path / name
        folder.mkdir()
        with agentcgroup.call("abuse", memory_max="100M", pids_max=20):
            _leave_as_maintenance(folder, code)
        assert session.records[-1].reason is None
        (folder / "go").touch()
        if name == "memory":
            assert until(lambda: processes_below(session) == [])
    assert until(lambda: len(processes_below(session)) == 20)
    time.sleep(1)
    assert len(processes_below(session)) == 20
