"""The processes of a call where there is no cgroup: its children, followed by parentage.

Weaker than a cgroup, and `agentcgroup doctor` reports it: a process that daemonises (its parent
ends) between two scans of /proc is lost, and the kernel neither limits nor counts anything.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from typing import NamedTuple

from agentcgroup import syscalls
from agentcgroup.cgroup import Events, Usage
from agentcgroup.threads import sleep

__all__ = ["ProcessTree", "Stat", "stat_of"]


class Stat(NamedTuple):
    """A process, by its parent's pid, its start in clock ticks since boot, its state, its name."""

    parent: int
    start: int
    state: str
    name: str


class ProcessTree:
    """A `ProcessGroup` made of what /proc shows."""

    #: There is no directory that a child can be born in.
    fd: int | None = None

    def __init__(self) -> None:
        # pid -> start time (field 22 of stat): the pid may belong to another process by now.
        self._known: dict[int, int] = {}

    def note_child(self, pid: int) -> None:
        """Follow a child that was just started."""
        stat = stat_of(pid)
        if stat is not None:
            self._known[pid] = stat.start

    def join(self, pid: int) -> None:
        """Follow a process that runs already."""
        self.note_child(pid)

    def forget(self, pids: Iterable[int]) -> None:
        """Follow some members no more."""
        for pid in pids:
            self._known.pop(pid, None)

    def procs(self) -> list[int]:
        """Return the pids of living members, and remember their children."""
        table = {pid: stat for pid in _pids() if (stat := stat_of(pid)) is not None}
        self._known = {
            pid: start
            for pid, start in self._known.items()
            if pid in table and table[pid].start == start
        }
        grown = True
        while grown:
            found = {
                pid: stat.start
                for pid, stat in table.items()
                if stat.parent in self._known and pid not in self._known
            }
            self._known.update(found)
            grown = bool(found)
        return [pid for pid in self._known if table[pid].state != "Z"]

    def all_procs(self) -> list[int]:
        """Return the pids of living members: the tree has no parts."""
        return self.procs()

    def populated(self) -> bool:
        """Return whether a member lives; zombies do not count."""
        return bool(self.procs())

    def wait_empty(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until no member lives; return whether none does."""
        deadline = time.monotonic() + timeout
        while self.populated():
            if time.monotonic() >= deadline:
                return False
            sleep(0.005)
        return True

    def kill(self) -> None:
        """Send SIGKILL to all members, several times while they still fork."""
        for _ in range(10):
            alive = self.procs()
            if not alive:
                return
            for pid in alive:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            sleep(0.001)

    def events(self) -> Events:
        """Return no event: only a cgroup counts them."""
        return Events()

    def usage(self) -> Usage:
        """Return no usage: only a cgroup counts it."""
        return Usage()

    def remove(self) -> None:
        """Do nothing: the end of the call has killed the members, and there is no directory."""

    def close(self) -> None:
        """Do nothing: there is no descriptor."""


def _pids() -> list[int]:
    return [int(name) for name in syscalls.listdir("/proc") if name.isdigit()]


def stat_of(pid: int) -> Stat | None:
    """Return what /proc/PID/stat tells of a process, None when it is gone (proc(5))."""
    try:
        text = syscalls.read_file(f"/proc/{pid}/stat")
    except OSError:
        return None
    # The name, in parentheses, may hold any byte.
    before, _, after = text.rpartition(b")")
    fields = after.split()
    name = before.partition(b"(")[2].decode("utf-8", "replace")
    return Stat(int(fields[1]), int(fields[19]), fields[0].decode(), name)
