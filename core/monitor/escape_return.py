"""The escape net: no process of a call stays out of the call's cgroup.

Two ways lead out. A child that C code of the host makes is born where the host lives; the thread
that made it tells whose it is (`board`). A process of a call may write itself into another cgroup,
and its children are born there; the books know it by its descent.

A child whose call has a cgroup goes there at once. Where the call has none yet, only the host can
make it, and the host may be waiting for this very child: so it goes to the harbour, a leaf of the
run, first, is let go, and is fetched from there when the host has answered. One whose call is over
by then is killed, like everything that outlives its call.
"""

from __future__ import annotations

import contextlib
import os
import signal

from agentcgroup.cgroup import Cgroup
from agentcgroup.monitor.ledger import CallEntry, Ledger
from agentcgroup.monitor.source import Raw
from agentcgroup.monitor.thread_board import View

__all__ = ["EscapeReturn", "let_go"]


class EscapeReturn:
    """Finds what is outside and brings it in."""

    def __init__(self, ledger: Ledger, board: View) -> None:
        """Work on the books of `ledger`, and find threads on `board`."""
        self._ledger = ledger
        self._board = board
        self.harbour: str | None = None

    def born_outside(self, event: Raw) -> tuple[CallEntry, int] | None:
        """Bring a child of the host in; None when the thread that made it is in no call.

        Returns:
            Its home, and the number of the call whose cgroup the host must make, 0 for none.
        """
        seat = self._board.seat(event.thread) if event.seat is None else event.seat
        call = None if seat is None else self._board.call(seat, event.time)
        if seat is None or call is None:
            let_go(event)
            return None
        number, cgroup = call
        known = self._ledger.get(cgroup)
        home = self._ledger.stray(event.pid) if known is None else known
        if event.cgroup is None and self._ledger.is_elsewhere(event.pid):
            home.missed(event.pid)  # it was looked at late, and has left wherever it was born
        elif not self._board.placing(seat, event.time):
            home.missed_birth(event.pid)
        if known is not None:
            number = 0
            self._bring(home, event.pid)
        else:
            self._board.mark(seat, number)
            if self.harbour is not None:
                _move(event.pid, self.harbour)
        let_go(event)
        return home, number

    def born_of_member(self, home: CallEntry, event: Raw) -> None:
        """Bring a child of a member in, which was born outside."""
        home.missed_birth(event.pid)
        self._bring(home, event.pid)
        let_go(event)

    def fetch(self, pid: int, cgroup: int) -> None:
        """Bring a child whose call has got a cgroup there, with all that it has started since."""
        home = self._ledger.get(cgroup)
        stray = self._ledger.settle(pid, home)
        if home is not None and stray is not None:
            for member in stray:
                self._bring(home, member)

    def drop(self, pid: int) -> None:
        """Kill a child whose call is over, with all that it has started."""
        for member in self._ledger.settle(pid, None) or ():
            _signal(member, signal.SIGKILL)

    def check(self, home: CallEntry, pid: int) -> bool:
        """Bring a member back if it has left; say whether that is news."""
        path = None if home.released else self._ledger.where(pid)
        if path is None:
            return False
        if home.holds(path):
            home.outside.discard(pid)
            return False
        news = home.missed(pid)
        self._bring(home, pid)
        return news

    def _bring(self, home: CallEntry, pid: int) -> None:
        # With calls inside, a call's own processes live in a leaf (see containment.call_cgroup).
        if not _move(pid, home.path):
            _move(pid, f"{home.path}/self")
        # To move one that is dying is no error and does nothing (cgroup_migrate_add_task()).
        path = self._ledger.where(pid)
        if path is not None and home.holds(path):
            home.outside.discard(pid)


def let_go(event: Raw) -> None:
    """Let what was stopped at its birth go on."""
    if event.stopped:
        _signal(event.pid, signal.SIGCONT)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(OSError):  # it has ended meanwhile
        os.kill(pid, number)


def _move(pid: int, path: str) -> bool:
    """Move a process; False where the cgroup takes none. One that is gone is no matter."""
    try:
        with contextlib.closing(Cgroup.open(path)) as cgroup:
            cgroup.join(pid)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return True
