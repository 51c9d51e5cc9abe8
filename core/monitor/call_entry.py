"""What the processes of one call did: one entry of the ledger."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, Final

__all__ = ["CallEntry", "program_of"]

#: Programs that an entry keeps, and bytes of a program's path.
PROGRAMS: Final = 64
_PATH_BYTES: Final = 256


class CallEntry:
    """One call's cgroup and what its processes did.

    Attributes:
        id, path: of the cgroup.
        whole: no event of it is missing.
        started: processes that began in it, those of calls inside too.
        programs: what the processes ran and how that ended, the first `PROGRAMS` of them.
        left_out: programs beyond.
        escapes: times that a process was outside: each from when it is found there until it is
            seen back in.
        outside: processes that were found outside and were not seen back in yet.
        born_outside: those of its escapes that were so at birth; the app may report at the end
            that it has placed them itself.
        counted: the source's counters have all of it.
        counters: of calls inside that are over; its own are added at its end.
        released: its processes may leave the cgroup.
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
        """Return whether a cgroup is this one or below it."""
        return path == self.path or path.startswith(self.path + "/")

    def note_present(self, pid: int) -> None:
        """Add a process that was in the cgroup before the entry: its events are missing."""
        self.whole = False
        self.members[pid] = _Running(None)

    def note_outside(self, pid: int) -> bool:
        """Note that a process was found outside; returns False where that was known."""
        known = pid in self.outside
        if not known:
            self.escapes += 1
            self.outside.add(pid)
        return not known

    def note_born_outside(self, pid: int) -> None:
        """Note that a process was born outside."""
        self.note_outside(pid)
        self.born_outside.add(pid)

    def note_placed(self, pids: Iterable[int]) -> None:
        """Take back the escapes of processes that the app has placed after a real fork.

        Such a child joins its cgroup as its first act, and may be seen before.
        """
        self.escapes -= len(self.born_outside.intersection(pids))
        self.born_outside.clear()

    def begin(self, pid: int, parent: int) -> None:
        """Add a process, which runs the program of its parent."""
        self.started += 1
        above = self.members.get(parent)
        self.members[pid] = _Running(None if above is None else above.program)

    def execute(self, pid: int, program: str) -> None:
        """Add a program; a process may run several, one after the other."""
        self._list(pid, self.members[pid], program)

    def program(self, pid: int) -> str | None:
        """Return what a member runs, None when that is not known."""
        running = self.members.get(pid)
        return None if running is None else running.program

    def end(self, pid: int, status: int) -> None:
        """Write how a process ended to the last program that it ran; `status` as of wait(2)."""
        running = self.members[pid]
        if not running.executed:  # it was forked, and runs the program of its parent
            self._list(pid, running, running.program or program_of(pid))
        if running.line is not None:
            how = ("signal", status & 0x7F) if status & 0x7F else ("exit_code", status >> 8 & 0xFF)
            running.line.update([how])
        del self.members[pid]
        self.outside.discard(pid)

    def _list(self, pid: int, running: _Running, program: str) -> None:
        running.program = program
        running.executed = True
        if len(self.programs) < PROGRAMS:
            running.line = {"program": program, "pid": pid}
            self.programs.append(running.line)
        else:
            running.line = None
            self.left_out += 1

    def absorb(self, inner: CallEntry) -> None:
        """Add what the processes of a call inside this one did."""
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
        """Add counters; a counter that is None in one part is None in the sum."""
        for name, count in counters.items():
            before = self.counters.get(name, 0)
            self.counters[name] = None if count is None or before is None else before + count


class _Running:
    """What a process is running, and its line in the list of programs."""

    __slots__ = ("executed", "line", "program")

    def __init__(self, program: str | None) -> None:
        self.program = program
        self.executed = False
        self.line: dict[str, Any] | None = None


def program_of(pid: int) -> str:
    """Return the path of the program of a process, of a zombie only its name, "?" for no process.

    Bytes that are not UTF-8 are escaped, so that every reader of the record takes the text.
    """
    try:
        name = os.readlink(f"/proc/{pid}/exe".encode())
    except OSError:
        try:
            with open(f"/proc/{pid}/comm", "rb") as file:
                name = file.read().rstrip(b"\n")
        except OSError:
            return "?"
    return name[:_PATH_BYTES].decode("utf-8", "backslashreplace")
