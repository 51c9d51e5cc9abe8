"""Deadlines: one thread sleeps until the earliest and stops the calls whose time is over.

The kernel has no deadline for a cgroup. This is the one clock of calls, sync and async, with
processes and without: whatever pauses a call's time pauses it here.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection
from typing import Final, Generic, Protocol, TypeVar

from agentcgroup.threads import Event, Lock, Thread, start_thread

__all__ = ["START_MOST", "Deadlines", "Stoppable"]

logger = logging.getLogger("agentcgroup")


#: Seconds of a worker's start, with the first import of the tool's modules, that do not count
#: against the timeout of a call: a module that never ends its import must end.
START_MOST: Final = 60.0
#: Seconds after its deadline at which a call that still runs is reported.
_OVERDUE: Final = 2.0
#: Seconds from one sweep to the next, at least: each looks at all running calls.
_SWEEPS_APART: Final = 0.005


class Stoppable(Protocol):
    """What a deadline can end."""

    @property
    def deadline(self) -> float | None:
        """When its time is over (`time.monotonic`); None without a timeout. May move on."""

    @property
    def stopped(self) -> str | None:
        """The reason for which it was stopped."""

    def stop(self, reason: str) -> None:
        """End every process, and let none start."""


S = TypeVar("S", bound=Stoppable)


class Deadlines(Generic[S]):
    """Stops running calls whose deadline has passed, from a daemon thread.

    A call that begins compares its deadline with `wakes_at`, and calls `wake` where it is earlier:
    so the thread starts with the first deadline, and a call that ends in time costs the comparison.
    The thread finds what is due by a look at all running calls.

    Attributes:
        wakes_at: when the thread looks next (`time.monotonic`); infinity without a deadline.
    """

    def __init__(self, running: Collection[S], tell_overdue: Callable[[S], None]) -> None:
        """Serve the calls in `running`, which other threads change.

        A call that begins has to be in it before `wakes_at` is read.

        Args:
            running: the calls that run.
            tell_overdue: reports a call that runs on after its deadline.
        """
        self.wakes_at = math.inf
        self._running = running
        self._tell_overdue = tell_overdue
        self._told: set[S] = set()
        self._earlier = Event()
        self._starting = Lock()
        self._thread: Thread | None = None
        self._closed = False
        self._failed = False

    def wake(self, deadline: float) -> None:
        """Have the thread look at the running calls again: one has a deadline before `wakes_at`.

        Takes no lock that could be held: a signal handler may run a call between any two lines.
        """
        self.wakes_at = deadline
        if self._thread is None and self._starting.acquire(blocking=False):
            try:
                self._start()
            finally:
                self._starting.release()
        self._earlier.set()

    def _start(self) -> None:
        """Start the thread; where there can be none, a tool does not fail for it."""
        if self._thread is not None or self._closed:
            return
        try:
            self._thread = start_thread(self._work, "deadlines")
        except RuntimeError as error:
            self.wakes_at = math.inf  # the next call tries again
            if not self._failed:
                self._failed = True
                logger.error("agentcgroup: timeouts are not enforced: %s", error)  # noqa: TRY400

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        self._earlier.set()

    def _work(self) -> None:
        while not self._closed:
            self._earlier.clear()
            # In this order: a call that is not seen below compares with infinity, and wakes again.
            self.wakes_at = math.inf
            earliest = self._sweep()
            self.wakes_at = min(self.wakes_at, earliest)
            pause = earliest - time.monotonic()
            self._earlier.wait(None if pause == math.inf else max(pause, _SWEEPS_APART))

    def _sweep(self) -> float:
        """Stop each call that is due, report each that is overdue; return when the next is."""
        earliest = math.inf
        running = list(self._running)
        if self._told:
            self._told.intersection_update(running)
        for call in running:
            deadline = call.deadline
            if deadline is None or call in self._told:
                continue
            now = time.monotonic()
            if call.stopped is None and deadline <= now:
                self._stop(call)
                deadline = call.deadline or deadline
            if call.stopped is None:
                # Still at or before now: it is ending, or could not be stopped.
                at = deadline if deadline > now else deadline + _OVERDUE
            elif call.stopped == "timeout":
                at = deadline + _OVERDUE
            else:
                continue
            if at > now:
                earliest = min(earliest, at)
            else:
                self._told.add(call)
                self._tell(call)
        return earliest

    def _stop(self, call: S) -> None:
        try:
            call.stop("timeout")
        except Exception:
            logger.exception("agentcgroup: a call past its deadline could not be stopped")

    def _tell(self, call: S) -> None:
        try:
            self._tell_overdue(call)
        except Exception:
            logger.exception("agentcgroup: a call past its deadline could not be reported")
