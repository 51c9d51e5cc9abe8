"""Removing a cgroup with everything in it and below it."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from typing import Final

from agentcgroup import syscalls
from agentcgroup.cgroup import files, wait
from agentcgroup.cgroup.files import Directory
from agentcgroup.threads import sleep

__all__ = ["kill", "kill_one_by_one", "remove", "rmdir"]

#: Seconds between two attempts to remove: the first pause and the longest.
_FIRST_PAUSE_S: Final = 0.001
_LONGEST_PAUSE_S: Final = 0.1
#: Seconds that the processes of a cgroup get to stand still before they are killed one by one.
_FREEZE_S: Final = 0.5


def rmdir(path: str) -> bool:
    """Remove one cgroup; return False while it is busy. A cgroup that is gone counts as removed."""
    try:
        syscalls.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def remove(directory: Directory, timeout: float) -> None:
    """Kill the processes in a cgroup and below it, and remove it with all its children.

    Raises:
        OSError: EBUSY, with the processes that are left, after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    pause = _FIRST_PAUSE_S
    kill(directory)
    wait.until(directory, "populated", False, timeout)
    while not _rmdir_all(directory):
        if time.monotonic() >= deadline:
            pids = directory.read(files.PROCS).split()
            left = ", ".join(pids[:10]) or "none right in it"
            raise OSError(errno.EBUSY, f"cannot be removed, processes left: {left}", directory.path)
        sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)
        kill(directory)  # processes that entered since


def kill(directory: Directory) -> None:
    """SIGKILL every process in a cgroup and below it, frozen ones and those being forked too."""
    try:
        directory.write(files.KILL, "1")
    except FileNotFoundError:
        if directory.has(files.PROCS):
            kill_one_by_one(directory)


def kill_one_by_one(directory: Directory) -> None:
    """Do what cgroup.kill does, before 5.14: a frozen process cannot fork away from the kill."""
    tree = [directory.path, *directory.descendants()]
    directory.write(files.FREEZE, "1")
    try:
        wait.until(directory, "frozen", True, _FREEZE_S)
        for path in tree:
            with (
                contextlib.suppress(FileNotFoundError),
                contextlib.closing(Directory.open(path)) as one,
            ):
                # 0 stands for a process of another pid namespace.
                for pid in filter(None, map(int, one.read(files.PROCS).split())):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
    finally:
        directory.write(files.FREEZE, "0")


def _rmdir_all(directory: Directory) -> bool:
    busy = [path for path in reversed(directory.descendants()) if not rmdir(path)]
    return not busy and rmdir(directory.path)
