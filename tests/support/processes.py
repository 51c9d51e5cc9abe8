"""Processes as /proc shows them, and waiting until something is so.

A kill is over for the cgroup before it is for /proc: the kernel takes an ending process out of
cgroup.procs first (`cgroup_exit` in do_exit), then makes it a zombie, and it has a pid until its
parent, or PID 1, has come to reap it. So a test asks `ended`, which waits, and takes a zombie as
ended.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["SOON", "alive", "children", "ended", "meeting", "running", "session", "state", "until"]

#: Seconds until what goes on by itself must have happened: an emulated CPU, shared with others.
SOON = 60.0


def until(true: Callable[[], bool], timeout: float = SOON) -> bool:
    """Wait until something is so; False if it never was."""
    deadline, pause = time.monotonic() + timeout, 0.001
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
    return True


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name: the third, the state, is the first."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def state(pid: int) -> str:
    """Return the letter: R running, S sleeping, T stopped, Z zombie."""
    return _stat(pid)[0]


def session(pid: int) -> int:
    return int(_stat(pid)[3])


def alive(pid: int) -> bool:
    """Tell whether a process is there and not a zombie."""
    try:
        return state(pid) not in "ZX"
    except (FileNotFoundError, ProcessLookupError):  # gone before the open, or before the read
        return False


def children() -> set[int]:
    """Return the pids of the children of this process, zombies included."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if int(_stat(int(entry.name))[1]) == os.getpid():
                    found.add(int(entry.name))
    return found


def ended(*pids: int) -> bool:
    """Wait until none of the processes is alive."""
    return until(lambda: not any(map(alive, pids)))


def running(*command: str) -> list[int]:
    """Return the living processes of exactly this command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if entry.read_bytes().split(b"\0")[:-1] == [word.encode() for word in command]:
                found.append(int(entry.parts[2]))
    return found


def meeting(one: str, other: str, folder: Path) -> list[tuple[str, str]]:
    """Return two names, each with a shell command that goes on when the other one runs, too.

    Alone it gives up after half a minute.
    """
    script = "touch {}; for i in $(seq 300); do test -e {} && break; sleep 0.1; done"
    return [
        (mine, script.format(folder / mine, folder / yours))
        for mine, yours in ((one, other), (other, one))
    ]
