"""Which call each thread of the host is in: a page of shared memory that the helper reads.

A child that C code makes is known by the thread that made it. The helper cannot ask whose call
that is: a posix_spawn in a C extension may hold the interpreter's lock until the child has executed
its program, and the child may stand still until the helper has answered. So each thread has a seat,
some words where a call that begins in it writes its number and, once it has one, its cgroup; the
helper writes there that it has found a child of that call outside. The helper may look a moment
late: by the times that stand there too it can tell whether the call there is the right one, and who
was there before. ThreadSlot down and getting up take about a microsecond each.

A child that the host has placed itself may be seen outside all the same, where Python has to fork
and the child joins its cgroup as its first act. Such a one is born while its thread has said in its
seat that it is placing somebody.

Of several async calls at once in one thread the last one to begin has the seat.

Where BPF programs watch, a seat has a switch too, in memory shared with the kernel: while it is on,
the kernel itself takes what the thread does for a call's (see `bpf`).
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from typing import Final, Protocol

__all__ = ["Board", "Switches", "ThreadSlot", "View"]

#: Seats; further threads have none, and their calls no net.
_SEATS: Final = 1024
#: Words of a seat: thread id; number of the call, id of its cgroup, its beginning; number of the
#: call before it, its end (both in ns of CLOCK_MONOTONIC); number of a call of which a child was
#: found outside; from when, and until when, it was placing a child last.
_WORDS: Final = 9
_THREAD, _CALL, _CGROUP, _BEGAN, _LAST, _ENDED, _FOUND, _PLACING, _PLACED = range(_WORDS)
SIZE: Final = _SEATS * _WORDS * 8


class Switches(Protocol):
    """What lets the kernel know whether a thread is in a call, by the number of its seat."""

    def lend(self, seat: int, thread: int) -> None:
        """Make a switch that of a thread."""

    def take_back(self, seat: int, thread: int) -> None:
        """The thread has ended."""

    def switch(self, seat: int, on: bool) -> None:
        """Turn it on or off."""

    def charged(self, seat: int) -> int | None:
        """Return the bytes of memory charged to its thread while it was on; None: not counted."""


class ThreadSlot:
    """One call in the seat of the thread it began in."""

    __slots__ = ("_charged", "_seat", "began", "cgroup", "number")

    def __init__(self, seat: _Seat, number: int) -> None:
        self._seat = seat
        self.number = number
        self.cgroup = 0
        self.began = time.monotonic_ns()
        self._charged = seat.charged()
        seat.sittings.append(self)
        seat.show(self)

    def enclosed(self, cgroup: int) -> None:
        """Say which cgroup the call has."""
        self.cgroup = cgroup
        if self._seat.sittings[-1:] == [self]:
            self._seat.show(self)

    def found(self) -> bool:
        """Say whether the helper has found a child of this call outside."""
        return self._seat.words[self._seat.at + _FOUND] == self.number

    def charged(self) -> int | None:
        """Return the bytes of memory charged to the thread since; None: not counted."""
        now = self._seat.charged()
        return None if now is None or self._charged is None else now - self._charged

    def leave(self) -> None:
        """Give the seat back to the call that had it before."""
        self._seat.leave(self)


class _Seat:
    """One thread's words; free again when the thread has ended."""

    __slots__ = ("_board", "_switches", "_thread", "at", "sittings", "words")

    def __init__(self, board: Board, at: int) -> None:
        self._board = board
        self.at = at
        self.words = board.words
        self.sittings: list[ThreadSlot] = []
        self.words[at + _THREAD] = self._thread = threading.get_native_id()
        self._switches = board.switches
        if self._switches is not None:
            self._switches.lend(at // _WORDS, self._thread)

    def show(self, sitting: ThreadSlot) -> None:
        """Let the helper see a call; never one with the cgroup of another."""
        words, at = self.words, self.at
        words[at + _CALL] = 0
        words[at + _CGROUP] = sitting.cgroup
        words[at + _BEGAN] = sitting.began
        words[at + _CALL] = sitting.number
        if self._switches is not None:
            self._switches.switch(at // _WORDS, sitting.number != 0)

    def charged(self) -> int | None:
        """Return the bytes of memory charged to the thread in calls so far; None: not counted."""
        return None if self._switches is None else self._switches.charged(self.at // _WORDS)

    def leave(self, sitting: ThreadSlot) -> None:
        """Take a call away, from wherever among those here."""
        words, at = self.words, self.at
        self.sittings.remove(sitting)
        if sitting.number:
            words[at + _ENDED] = time.monotonic_ns()
            words[at + _LAST] = sitting.number
        if self.sittings:
            self.show(self.sittings[-1])
        else:
            words[at + _CALL] = 0
            if self._switches is not None:
                self._switches.switch(at // _WORDS, False)

    def __del__(self) -> None:
        if self._board.owner != os.getpid():
            return  # a fork lets go of the seats of threads that it has not; they still sit there
        self.words[self.at + _THREAD] = 0
        if self._switches is not None:
            self._switches.take_back(self.at // _WORDS, self._thread)
        self._board.free.append(self.at)


class Board:
    """The host's side of the page."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.fd = os.memfd_create("agentcgroup-board", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, SIZE)
        self.words = memoryview(mmap.mmap(self.fd, SIZE)).cast("Q")
        self.free = list(range(0, _SEATS * _WORDS, _WORDS))
        self.free.reverse()  # the first ones, which have switches, first
        self.switches: Switches | None = None
        self._local = threading.local()

    def sit(self, number: int) -> ThreadSlot | None:
        """Have a call take the seat of this thread, 0 for none; None when all are taken."""
        try:
            seat: _Seat = self._local.seat
        except AttributeError:
            if self.owner != os.getpid():
                return None  # a fork, which has no seats of its own
            try:
                seat = self._local.seat = _Seat(self, self.free.pop())
            except IndexError:
                return None
        return ThreadSlot(seat, number)

    def placing(self, begins: bool) -> None:
        """Say that this thread begins, or has ended, to start a child in its place."""
        seat: _Seat | None = getattr(self._local, "seat", None)
        if seat is not None:
            self.words[seat.at + (_PLACING if begins else _PLACED)] = time.monotonic_ns()

    def sent(self) -> None:
        """Close the descriptor, which the helper has by now."""
        os.close(self.fd)

    def close(self) -> None:
        """Have the seats given up; the page goes with the last of them."""
        self._local = threading.local()


class View:
    """The helper's side of the page."""

    def __init__(self, fd: int) -> None:
        self._words = memoryview(mmap.mmap(fd, SIZE)).cast("Q")

    def seat(self, thread: int) -> int | None:
        """Return the number of a thread's seat, None when it has none."""
        for at in range(0, _SEATS * _WORDS, _WORDS):
            if self._words[at + _THREAD] == thread:
                return at // _WORDS
        return None

    def call(self, seat: int, moment: float) -> tuple[int, int] | None:
        """Return (number, cgroup or 0) of the call that had a seat, None when none had it.

        Args:
            seat: its number.
            moment: when, not long ago, in seconds of CLOCK_MONOTONIC.
        """
        words, at = self._words, seat * _WORDS
        number, cgroup, began = words[at + _CALL], words[at + _CGROUP], words[at + _BEGAN]
        if number and number == words[at + _CALL] and began <= moment * 1e9:
            return number, cgroup
        if words[at + _LAST] and moment * 1e9 <= words[at + _ENDED]:
            return words[at + _LAST], 0
        return None

    def placing(self, seat: int, moment: float) -> bool:
        """Say whether the thread in a seat was placing a child at this moment, not long ago."""
        began, ended = self._words[seat * _WORDS + _PLACING : seat * _WORDS + _PLACED + 1]
        return began != 0 and began <= moment * 1e9 and (ended < began or moment * 1e9 <= ended)

    def mark(self, seat: int, number: int) -> None:
        """Tell a call that a child of its was found outside."""
        self._words[seat * _WORDS + _FOUND] = number
