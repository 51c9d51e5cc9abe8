"""The thread board: which call each thread of the app works for, in memory that the helper reads.

The helper attributes a child that C code starts by the thread that started it. It cannot ask the
app which call that thread works for: a posix_spawn in a C extension may hold the interpreter's lock
until the child has executed its program, and the child may be stopped until the helper has moved
it. So each thread has a slot on the board, a few words of shared memory. A call that begins in the
thread writes its number there and, once it has one, the id of its cgroup; the helper writes there
the number of a call of which it has found a child outside. The helper may read a slot a moment
late: the slot has times too, by which the helper checks that the call began before the child did,
and the call that the thread worked for before. To occupy or to vacate a slot takes about a
microsecond.

Where Python has to fork, a child that the app places itself joins its cgroup as its first act, and
the helper may see the child outside before it has joined. The slot has the times between which its
thread was starting such a child.

Of several async calls in one thread the slot shows the one that began last.

With BPF programs a slot has a switch too, in memory shared with the kernel: while the switch is on,
the kernel attributes to the slot what the thread does (see `bpf`).
"""

from __future__ import annotations

import mmap
import os
import time
from typing import Final, Protocol

from agentcgroup.threads import get_native_id, local

__all__ = ["BoardReader", "KernelSwitches", "ThreadBoard", "ThreadSlot"]

#: Slots; further threads have none, and a child that their C code starts is not returned.
_SLOTS: Final = 1024
#: Words of a slot: thread id; number of the call, id of its cgroup, its beginning; number of the
#: call before it, its end (both in ns of CLOCK_MONOTONIC); number of a call of which a child was
#: found outside; when the thread last began, and last ended, to place a child (ns as above).
_WORDS: Final = 9
_THREAD, _CALL, _CGROUP, _BEGAN, _LAST, _ENDED, _FOUND, _PLACING, _PLACED = range(_WORDS)
SIZE: Final = _SLOTS * _WORDS * 8


class KernelSwitches(Protocol):
    """Switches the kernel's accounting for a thread on and off, by the number of its slot."""

    def assign(self, slot: int, thread: int) -> None:
        """Assign a switch to a thread, by its kernel thread id."""

    def unassign(self, slot: int, thread: int) -> None:
        """Undo `assign`: the thread has ended."""

    def switch(self, slot: int, on: bool) -> None:
        """Turn a switch on or off."""

    def charged(self, slot: int) -> int | None:
        """Return the bytes of memory charged to the thread while it was on; None: not counted."""


class ThreadSlot:
    """One call in the slot of the thread that it began in."""

    __slots__ = ("_charged", "_words", "began", "cgroup", "number")

    def __init__(self, words: _SlotWords, number: int) -> None:
        self._words = words
        self.number = number
        self.cgroup = 0
        self.began = time.monotonic_ns()
        self._charged = words.charged()
        words.occupants.append(self)
        words.show(self)

    def set_cgroup(self, cgroup: int) -> None:
        """Write the id of the cgroup that the call has got."""
        self.cgroup = cgroup
        if self._words.occupants[-1:] == [self]:
            self._words.show(self)

    def found_outside(self) -> bool:
        """Return whether the helper has found a child of this call outside."""
        return self._words.words[self._words.at + _FOUND] == self.number

    def charged(self) -> int | None:
        """Return the bytes of memory charged to the thread since; None: not counted."""
        now = self._words.charged()
        return None if now is None or self._charged is None else now - self._charged

    def vacate(self) -> None:
        """Give the slot back to the call that occupied it before."""
        self._words.remove(self)


class _SlotWords:
    """The words of one thread's slot; free again when the thread has ended."""

    __slots__ = ("_board", "_switches", "_thread", "at", "occupants", "words")

    def __init__(self, board: ThreadBoard, at: int) -> None:
        self._board = board
        self.at = at
        self.words = board.words
        self.occupants: list[ThreadSlot] = []
        self.words[at + _THREAD] = self._thread = get_native_id()
        self._switches = board.switches
        if self._switches is not None:
            self._switches.assign(at // _WORDS, self._thread)

    def show(self, occupant: ThreadSlot) -> None:
        """Write a call so that the helper never reads it with the cgroup of another."""
        words, at = self.words, self.at
        words[at + _CALL] = 0
        words[at + _CGROUP] = occupant.cgroup
        words[at + _BEGAN] = occupant.began
        words[at + _CALL] = occupant.number
        if self._switches is not None:
            self._switches.switch(at // _WORDS, occupant.number != 0)

    def charged(self) -> int | None:
        """Return the bytes of memory charged to the thread in calls so far; None: not counted."""
        return None if self._switches is None else self._switches.charged(self.at // _WORDS)

    def remove(self, occupant: ThreadSlot) -> None:
        """Remove a call, which need not be the one that is shown."""
        words, at = self.words, self.at
        self.occupants.remove(occupant)
        if occupant.number:
            words[at + _ENDED] = time.monotonic_ns()
            words[at + _LAST] = occupant.number
        if self.occupants:
            self.show(self.occupants[-1])
        else:
            words[at + _CALL] = 0
            if self._switches is not None:
                self._switches.switch(at // _WORDS, False)

    def __del__(self) -> None:
        if self._board.owner != os.getpid():
            return  # a fork drops the slots of threads that it does not have; they are still used
        self.words[self.at + _THREAD] = 0
        if self._switches is not None:
            self._switches.unassign(self.at // _WORDS, self._thread)
        self._board.free.append(self.at)


class ThreadBoard:
    """The app's side of the board."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.fd = os.memfd_create("agentcgroup-board", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, SIZE)
        self.words = memoryview(mmap.mmap(self.fd, SIZE)).cast("Q")
        self.free = list(range(0, _SLOTS * _WORDS, _WORDS))
        self.free.reverse()  # the first ones, which have switches, first
        self.switches: KernelSwitches | None = None
        self._local = local()

    def use_switches(self, switches: KernelSwitches) -> None:
        """Give a switch to each thread that gets a slot from now on."""
        self.switches = switches

    def occupy(self, number: int) -> ThreadSlot | None:
        """Write a call into the slot of this thread; None when all slots are taken.

        Args:
            number: the call's, 0 when the thread works for no call.
        """
        try:
            words: _SlotWords = self._local.words
        except AttributeError:
            if self.owner != os.getpid():
                return None  # a fork, which has no slots of its own
            try:
                words = self._local.words = _SlotWords(self, self.free.pop())
            except IndexError:
                return None
        return ThreadSlot(words, number)

    def placing(self, begins: bool) -> None:
        """Write that this thread begins, or has ended, to start a child in its cgroup."""
        words: _SlotWords | None = getattr(self._local, "words", None)
        if words is not None:
            self.words[words.at + (_PLACING if begins else _PLACED)] = time.monotonic_ns()

    def close_fd(self) -> None:
        """Close the descriptor, which the helper has inherited by now."""
        os.close(self.fd)

    def close(self) -> None:
        """Drop this thread's slot; the memory is freed with the last slot."""
        self._local = local()


class BoardReader:
    """The helper's side of the board."""

    def __init__(self, fd: int) -> None:
        self._words = memoryview(mmap.mmap(fd, SIZE)).cast("Q")

    def slot_of(self, thread: int) -> int | None:
        """Return the number of the slot of a kernel thread id, None when it has none."""
        for at in range(0, _SLOTS * _WORDS, _WORDS):
            if self._words[at + _THREAD] == thread:
                return at // _WORDS
        return None

    def call_at(self, slot: int, moment: float) -> tuple[int, int] | None:
        """Return (number, cgroup or 0) of the call that occupied a slot, None for no call.

        Args:
            slot: its number.
            moment: a moment not long ago, in seconds of CLOCK_MONOTONIC.
        """
        words, at = self._words, slot * _WORDS
        number, cgroup, began = words[at + _CALL], words[at + _CGROUP], words[at + _BEGAN]
        if number and number == words[at + _CALL] and began <= moment * 1e9:
            return number, cgroup
        if words[at + _LAST] and moment * 1e9 <= words[at + _ENDED]:
            return words[at + _LAST], 0
        return None

    def was_placing(self, slot: int, moment: float) -> bool:
        """Return whether the thread of a slot was placing a child at a moment, as in `call_at`."""
        began, ended = self._words[slot * _WORDS + _PLACING : slot * _WORDS + _PLACED + 1]
        return began != 0 and began <= moment * 1e9 and (ended < began or moment * 1e9 <= ended)

    def mark_found(self, slot: int, number: int) -> None:
        """Write for the call of this number that a child of it was found outside."""
        self._words[slot * _WORDS + _FOUND] = number
