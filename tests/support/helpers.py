"""The monitor's helper processes, and what is said when one cannot keep up with the kernel."""

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

#: The forks and exits of these are more than any source has room for.
_FORKS = "n=0; while [ $n -lt 12000 ]; do (:); n=$((n + 1)); done"


def helpers(mark: str) -> list[int]:
    """Return the pids of helpers whose host had `mark` in its environment."""
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
    """What is not known is not told, that is said once, and the next call is known again."""
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
