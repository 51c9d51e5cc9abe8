"""The books of the helper: which process belongs to which call, what it ran, how it ended.

Theory of operation: a `CallEntry` is one call's cgroup. A process is a member of the home in whose
cgroup it was born, or in which its parent is a member: whatever it does to its session, its parent
or its cgroup afterwards, it stays one until it has exited. So what leaves a call's cgroup is known
for an escape, and so is a child that was never in it.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from agentcgroup.monitor.source import Raw

__all__ = ["CallEntry", "Ledger"]

#: Programs that a home remembers, and characters of a program's path.
PROGRAMS: Final = 64
_NAME: Final = 256
#: Children of the host that are remembered when it is not known whose they were.
_STRAYS: Final = 1024


class CallEntry:
    """One call's cgroup and what its processes did.

    Attributes:
        id, path: of the cgroup.
        whole: nothing of it was missed.
        started: processes that began in it, those of calls inside too.
        programs: what they ran and how that ended, the first of them.
        left_out: programs beyond.
        escapes: stays of its processes outside: each from when it is found there until it is seen
            back in.
        outside: processes that were found outside, and not seen back in yet.
        born_outside: those of its escapes that were so at birth; the host may say at the end that
            it has placed them itself.
        counted: the source's counters have all of it.
        counters: of calls inside that are over; with `count` its own too.
        released: its processes may go elsewhere.
        members: pid -> what it is running, of those that live.
    """

    __slots__ = (
        "born_outside",
        "counted",
        "counters",
        "escapes",
        "id",
        "left_out",
        "members",
        "outside",
        "path",
        "programs",
        "released",
        "started",
        "whole",
    )

    def __init__(self, cgroup: int, path: str) -> None:
        self.id = cgroup
        self.path = path
        self.whole = True
        self.started = 0
        self.programs: list[dict[str, Any]] = []
        self.left_out = 0
        self.escapes = 0
        self.outside: set[int] = set()
        self.born_outside: set[int] = set()
        self.counted = True
        self.counters: dict[str, int | None] = {}
        self.released = False
        self.members: dict[int, _Running] = {}

    def holds(self, path: str) -> bool:
        """Say whether a cgroup is this one or below."""
        return path == self.path or path.startswith(self.path + "/")

    def missed(self, pid: int) -> bool:
        """Note a process that is found outside; say whether that is news."""
        known = pid in self.outside
        if not known:
            self.escapes += 1
            self.outside.add(pid)
        return not known

    def missed_birth(self, pid: int) -> None:
        """Note a process that was born outside."""
        self.missed(pid)
        self.born_outside.add(pid)

    def placed(self, pids: Iterable[int]) -> None:
        """Take back the escapes of processes that the host has placed: after a real fork.

        Such a child joins its cgroup by itself, as its first act, and may be seen before.
        """
        self.escapes -= len(self.born_outside.intersection(pids))
        self.born_outside.clear()

    def begin(self, pid: int, parent: int) -> None:
        """Note a process, which runs what its parent does."""
        self.started += 1
        above = self.members.get(parent)
        self.members[pid] = _Running(None if above is None else above.program)

    def execute(self, pid: int, program: str) -> None:
        """Note a program; a process may run several, one after the other."""
        self._list(pid, self.members[pid], program)

    def program(self, pid: int) -> str | None:
        """Return what a member runs, None when that is not known."""
        running = self.members.get(pid)
        return None if running is None else running.program

    def end(self, pid: int, status: int) -> None:
        """Note how a process ended, on the last program it ran."""
        running = self.members[pid]
        if not running.executed:  # it was forked, and does what its parent did
            self._list(pid, running, running.program or _program(pid))
        if running.entry is not None:
            how = ("signal", status & 0x7F) if status & 0x7F else ("exit_code", status >> 8 & 0xFF)
            running.entry.update([how])
        del self.members[pid]
        self.outside.discard(pid)

    def _list(self, pid: int, running: _Running, program: str) -> None:
        running.program = program
        running.executed = True
        if len(self.programs) < PROGRAMS:
            running.entry = {"program": program, "pid": pid}
            self.programs.append(running.entry)
        else:
            running.entry = None
            self.left_out += 1

    def absorb(self, inner: CallEntry) -> None:
        """Take over what the processes of a call inside this one did."""
        self.started += inner.started
        self.escapes += inner.escapes
        self.born_outside |= inner.born_outside
        self.whole = self.whole and inner.whole
        self.counted = self.counted and inner.counted
        self.count(inner.counters)
        room = PROGRAMS - len(self.programs)
        self.programs += inner.programs[:room]
        self.left_out += inner.left_out + max(0, len(inner.programs) - room)

    def count(self, counters: Mapping[str, int | None]) -> None:
        """Add up counters; what is not known of a part is not known of the whole."""
        for name, count in counters.items():
            before = self.counters.get(name, 0)
            self.counters[name] = None if count is None or before is None else before + count


class _Running:
    """What a process is running, and its line in the list."""

    __slots__ = ("entry", "executed", "program")

    def __init__(self, program: str | None) -> None:
        self.program = program
        self.executed = False
        self.entry: dict[str, Any] | None = None


class Ledger:
    """Homes and members."""

    def __init__(self, host: int, run: str, where: Callable[[int], str | None]) -> None:
        """Keep books for the process `host`.

        Args:
            host: its pid.
            run: path of its run's cgroup: what is in there was put there.
            where: gives the cgroup of a pid; see `CgroupLocator.of_newborn`.
        """
        self._host = host
        self._run = run + "/"
        self.where = where
        self.on_unknown: Callable[[], None] = _ignore
        self.on_outside: Callable[[Raw], CallEntry | None] = _no_home
        self._homes: dict[int, CallEntry] = {}
        self._by_path: dict[str, CallEntry] = {}
        self._members: dict[int, CallEntry] = {}
        self._strays: OrderedDict[int, CallEntry] = OrderedDict()
        self._servants: set[int] = set()

    def __iter__(self) -> Iterator[CallEntry]:
        return iter(tuple(self._homes.values()))

    def add(self, cgroup: int, path: str, present: Iterable[int]) -> CallEntry:
        """Open the books for a cgroup in which `present` live already, seen too late to count."""
        home = CallEntry(cgroup, path)
        self._homes[cgroup] = self._by_path[path] = home
        for pid in present:
            home.whole = False
            home.members[pid] = _Running(None)
            self._members[pid] = home
        return home

    def remove(
        self, cgroup: int, started: Sequence[int], counters: Mapping[str, int | None]
    ) -> CallEntry | None:
        """Close the books; what is still alive is forgotten.

        Args:
            cgroup: its id.
            started: processes that the host has placed in it.
            counters: what the source has counted for it alone.
        """
        home = self._homes.pop(cgroup, None)
        if home is None:
            return None
        home.count(counters)
        for pid in started:
            self.settle(pid, home)
        home.placed(started)
        self._by_path.pop(home.path, None)
        for pid in home.members:
            self._members.pop(pid, None)
        above = self.at(os.path.dirname(home.path))
        if above is not None:
            above.absorb(home)
        return home

    def get(self, cgroup: int) -> CallEntry | None:
        """Return the home with this id."""
        return self._homes.get(cgroup)

    def at(self, path: str) -> CallEntry | None:
        """Return the innermost home that holds a cgroup."""
        while path not in self._by_path:
            above = os.path.dirname(path)
            if above == path:
                return None
            path = above
        return self._by_path[path]

    def of(self, pid: int) -> CallEntry | None:
        """Return the home that a process is a member of."""
        return self._members.get(pid)

    @property
    def homes(self) -> Collection[int]:
        """The ids of all cgroups whose books are open."""
        return self._homes.keys()

    @property
    def members(self) -> Collection[int]:
        """The processes of all homes."""
        return self._members.keys()

    def take(self, event: Raw) -> CallEntry | None:
        """Enter one event; returns the home it belongs to, None where it is no call's."""
        if event.kind == "exit":
            self._servants.discard(event.pid)
        if event.kind == "fork":
            return self._fork(event)
        if event.kind == "lost":
            for each in self._homes.values():
                each.whole = False
            return None
        home = self.of(event.pid)
        if home is None:
            return None
        if event.kind == "exec":
            home.execute(event.pid, event.program or _program(event.pid))
        elif event.kind == "exit":
            home.end(event.pid, event.status)
            del self._members[event.pid]
        return home

    def adopt(self, home: CallEntry, pid: int, parent: int = 0) -> None:
        """Count a process as one of this home."""
        home.begin(pid, parent)
        self._members[pid] = home

    def stray(self, pid: int) -> CallEntry:
        """Open books for a child of the host of which it is not known whose it is."""
        stray = self._strays[pid] = CallEntry(0, "")
        if len(self._strays) > _STRAYS:
            self._strays.popitem(last=False)
        return stray

    def settle(self, pid: int, home: CallEntry | None) -> list[int] | None:
        """Enter a stray in the books of its home; returns the living, None when it is unknown.

        Without a home they are only listed, and what they start yet is still entered with them.
        """
        stray = self._strays.get(pid)
        if stray is None:
            return None
        living = [*stray.members]
        if home is not None:
            del self._strays[pid]
            home.absorb(stray)
            home.members |= stray.members
            home.outside |= stray.outside
            for member in living:
                self._members[member] = home
        return living

    def _fork(self, event: Raw) -> CallEntry | None:
        home = self.kin(event)
        ours = event.parent == self._host or event.parent in self._servants
        if home is None and event.home is None and ours:
            home = self._of_host(event)
        if home is not None:
            self.adopt(home, event.pid, event.parent)
        return home

    def kin(self, event: Raw) -> CallEntry | None:
        """Return the home that a newborn belongs to, as far as the source or its descent tell."""
        told = self._homes.get(event.home or 0)
        if event.cgroup is None:
            return told or self._members.get(event.parent)
        if event.cgroup not in self._homes:
            self.on_unknown()
        home = self._homes.get(event.cgroup) or told or self._members.get(event.parent)
        if home is not None and home is not told:
            # Announced too late: the source has counted it for whatever is above.
            home.counted = False
        return home

    def in_run(self, path: str) -> bool:
        """Say whether a cgroup is one of the run: what is in there was put there."""
        return path.startswith(self._run)

    def is_elsewhere(self, pid: int) -> bool:
        """Say whether a process is neither in the run nor beside the host, where forks are born."""
        path = self.where(pid)
        return path is not None and path != self.where(self._host) and not self.in_run(path)

    def _of_host(self, event: Raw) -> CallEntry | None:
        """Return the home that a child of the host was born in, None where it is no call's."""
        path = self.where(event.pid)
        if path is None:
            # It is gone, and only the host knows whose it was; `remove` hears of it.
            return self.stray(event.pid)
        home = self.at(path)
        if home is None and self.in_run(path):
            self.on_unknown()
            home = self.at(path)
            if home is None:
                self._servants.add(event.pid)  # it may start others for calls, as we do
            return home
        return home if home is not None else self.on_outside(event)


def _ignore() -> None:
    pass


def _no_home(_event: Raw) -> CallEntry | None:
    return None


def _program(pid: int) -> str:
    """Return the path of what a process runs; of one that is a zombie only the name is left."""
    try:
        name = os.readlink(f"/proc/{pid}/exe".encode())
    except OSError:
        try:
            with open(f"/proc/{pid}/comm", "rb") as file:
                name = file.read().rstrip(b"\n")
        except OSError:
            return "?"
    # Whatever the bytes: text that every reader of the record can take.
    return name[:_NAME].decode("utf-8", "backslashreplace")
