"""The monitor's helper processes, and a case in which the helper misses events."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import agentcgroup
from agentcgroup import Session
from tests.support.processes import session

__all__ = ["helpers", "overwhelmed"]

#: More forks and exits than any source has room for.
_FORKS = "n=0; while [ $n -lt 12000 ]; do (:); n=$((n + 1)); done"


def helpers(mark: str) -> list[int]:
    """Return the pids of helpers whose app had `mark` in its environment."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            command = Path(f"/proc/{name}/cmdline").read_bytes()
            leader = session(int(name)) == int(name)
            environment = Path(f"/proc/{name}/environ").read_bytes()
        except (OSError, ValueError):
            continue
        of_mark = f"AGENTCGROUP_TEST={mark}".encode() in environment.split(b"\0")
        if of_mark and leader and b"agentcgroup.monitor.helper" in command:
            found.append(int(name))
    return found


def overwhelmed(
    start: Callable[[], Session], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The record lacks the missing figures, the log has it once, the next call has its figures."""
    monkeypatch.setenv("AGENTCGROUP_TEST", str(os.getpid()))
    session = start()
    (helper,) = helpers(str(os.getpid()))
    os.kill(helper, signal.SIGSTOP)
    try:
        with agentcgroup.call("many"):
            subprocess.run(["sh", "-c", _FORKS], check=True)
    finally:
        os.kill(helper, signal.SIGCONT)
    (many,) = session.records
    assert (many.monitor, many.processes_started, many.programs) == (
        session._services.monitor.source,
        None,
        None,
    )
    for _ in range(2):
        with agentcgroup.call("few"):
            subprocess.run(["true"], check=True)
    assert [record.processes_started for record in session.records[1:]] == [1, 1]
    assert caplog.text.count("more happened at once than the monitor could take in") == 1
