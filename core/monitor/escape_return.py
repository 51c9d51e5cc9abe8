"""The return of escapes: no process of a call stays outside of the call's cgroup.

A process gets outside in two ways. A child that C code of the app starts is born in the app's
cgroup; the thread that started it shows which call it belongs to (`thread_board`). A process of a
call may write itself into another cgroup, and its children are born there; the ledger shows the
call by the parent.

A process whose call has a cgroup is moved there at once. Where the call has none yet, only the app
can make it, and the app may be waiting for this very process: so the process is moved to the
holding cgroup, a leaf of the run, is resumed, and is moved on when the app has answered. When the
call is over by then, the process is killed, like everything that outlives its call.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Final

from agentcgroup.cgroup import Cgroup
from agentcgroup.monitor.call_entry import CallEntry
from agentcgroup.monitor.ledger import Ledger
from agentcgroup.monitor.source import KernelEvent
from agentcgroup.monitor.thread_board import BoardReader
from agentcgroup.threads import sleep

__all__ = ["EscapeReturn", "resume", "where_after_join"]

#: Seconds that a child may take to move itself, which waits for a grace period of the kernel.
_JOINING: Final = 1.0


class EscapeReturn:
    """Finds processes outside of their call's cgroup and moves them in."""

    def __init__(self, ledger: Ledger, board: BoardReader) -> None:
        """Use the entries of `ledger`, and the threads on `board`."""
        self._ledger = ledger
        self._board = board
        self._holding_cgroup: str | None = None

    def hold_in(self, path: str) -> None:
        """Move processes whose call has no cgroup yet to this one."""
        self._holding_cgroup = path

    def born_outside(self, event: KernelEvent) -> tuple[CallEntry, int] | None:
        """Move a child of the app in; None when the thread that started it is in no call.

        Returns:
            The child's entry, and the number of the call whose cgroup the app must make, 0 for
            none.
        """
        slot = event.thread_slot
        if slot is None:
            slot = self._board.slot_of(event.thread)
        call = None if slot is None else self._board.call_at(slot, event.time)
        if slot is None or call is None:
            resume(event)
            return None
        number, cgroup = call
        known = self._ledger.get(cgroup)
        entry = self._ledger.add_unattributed(event.pid) if known is None else known
        if event.cgroup is None and self._ledger.is_elsewhere(event.pid):
            entry.note_outside(event.pid)  # seen late: it has left the cgroup it was born in
        elif not self._board.was_placing(slot, event.time):
            entry.note_born_outside(event.pid)
        if known is not None:
            number = 0
            self._move_in(entry, event.pid)
        else:
            self._board.mark_found(slot, number)
            if self._holding_cgroup is not None:
                _move(event.pid, self._holding_cgroup)
        resume(event)
        return entry, number

    def born_of_member(self, entry: CallEntry, event: KernelEvent) -> None:
        """Move a child of a member in, which was born outside."""
        entry.note_born_outside(event.pid)
        self._move_in(entry, event.pid)
        resume(event)

    def move_in(self, pid: int, cgroup: int) -> None:
        """Move a child to the cgroup that its call has got, with all its descendants."""
        entry = self._ledger.get(cgroup)
        living = self._ledger.attribute(pid, entry)
        if entry is not None and living is not None:
            for member in living:
                self._move_in(entry, member)

    def kill(self, pid: int) -> None:
        """Kill a child whose call is over, with all its descendants."""
        for member in self._ledger.attribute(pid, None) or ():
            _signal(member, signal.SIGKILL)

    def check(self, entry: CallEntry, pid: int) -> bool:
        """Move a member back if it has left; returns whether it has left since the last check."""
        path = None if entry.released else self._ledger.where(pid)
        if path is None:
            return False
        if entry.holds(path):
            entry.outside.discard(pid)
            return False
        new = entry.note_outside(pid)
        self._move_in(entry, pid)
        return new

    def _move_in(self, entry: CallEntry, pid: int) -> None:
        # With calls inside, a call's own processes live in a leaf (see containment.call_cgroup).
        if not _move(pid, entry.path):
            _move(pid, f"{entry.path}/self")
        # To move one that is dying is no error and does nothing (cgroup_migrate_add_task()).
        path = self._ledger.where(pid)
        if path is not None and entry.holds(path):
            entry.outside.discard(pid)


def where_after_join(ledger: Ledger, app: int, pid: int) -> str | None:
    """Return the cgroup of a child that moves itself before it executes; None once it has ended.

    Waits up to 1 s for the move.

    Args:
        ledger: the helper's.
        app: pid of the app's process.
        pid: the child's.
    """
    deadline = time.monotonic() + _JOINING
    while True:
        overdue = time.monotonic() > deadline or not _runs_same(pid, app)
        path = ledger.where(pid)  # after that: what has executed by then has moved before
        if path is None or ledger.in_run(path) or overdue:
            return path
        sleep(0.001)


def _runs_same(pid: int, app: int) -> bool:
    """Return whether a child still runs the program of the app."""
    try:
        return os.path.samefile(f"/proc/{pid}/exe", f"/proc/{app}/exe")
    except OSError:
        return False


def resume(event: KernelEvent) -> None:
    """Resume a process that was stopped at its birth."""
    if event.stopped:
        _signal(event.pid, signal.SIGCONT)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(OSError):  # it has ended meanwhile
        os.kill(pid, number)


def _move(pid: int, path: str) -> bool:
    """Move a process; False where the cgroup takes none. A process that has ended is no error."""
    try:
        with contextlib.closing(Cgroup.open(path)) as cgroup:
            cgroup.join(pid)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return True
