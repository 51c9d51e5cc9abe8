"""Deadlines: one thread sleeps until the earliest and stops the calls whose time is over.

The kernel has no deadline for a cgroup. This is the one clock of calls, sync and async: whatever
pauses a call's time pauses it here.
"""

from __future__ import annotations

import logging
import math
import time
from typing import Final, Protocol

from agentcgroup.threads import Event, Lock, Thread, start_thread

__all__ = ["START_MOST", "Deadlines", "Stoppable"]

logger = logging.getLogger("agentcgroup")


#: Seconds of a worker's start, with the first import of the tool's modules, that do not count
#: against the timeout of a call: a module that never ends its import must end.
START_MOST: Final = 60.0


class Stoppable(Protocol):
    """What a deadline can end."""

    def stop(self, reason: str) -> None:
        """End every process, and let none start."""


class Deadlines:
    """Stops calls whose deadline has passed, from a daemon thread started at the first deadline.

    A sync call is armed at its first child and an async call at its start, so that deadlines come
    in any order: the thread looks for the earliest whenever it wakes. `arm` and `disarm` cost one
    dict entry, and nothing of an ended call stays.
    """

    def __init__(self) -> None:
        self._deadlines: dict[Stoppable, float] = {}
        self._lock = Lock()
        self._earlier = Event()
        self._wakes_at = math.inf
        self._thread: Thread | None = None
        self._closed = False
        self._told = False

    def arm(self, call: Stoppable, deadline: float) -> None:
        """Stop `call` at `deadline` (`time.monotonic`)."""
        with self._lock:
            self._deadlines[call] = deadline
            earlier = deadline < self._wakes_at
            if self._thread is None:
                self._start()
        if earlier:
            self._earlier.set()

    def disarm(self, call: Stoppable) -> None:
        """Drop the deadline of `call`."""
        with self._lock:
            self._deadlines.pop(call, None)

    def _start(self) -> None:
        """Start the thread; where there can be none, a tool does not fail for it."""
        try:
            self._thread = start_thread(self._work, "deadlines")
        except RuntimeError as error:
            if not self._told:
                self._told = True
                logger.error("agentcgroup: timeouts are not enforced: %s", error)  # noqa: TRY400

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        self._earlier.set()

    def _work(self) -> None:
        while not self._closed:
            for call in self._due():
                try:
                    call.stop("timeout")
                except Exception:
                    logger.exception("agentcgroup: a call past its deadline could not be stopped")
            with self._lock:
                self._earlier.clear()
                self._wakes_at = min(self._deadlines.values(), default=math.inf)
                pause = self._wakes_at - time.monotonic()
            self._earlier.wait(None if pause == math.inf else max(pause, 0.0))

    def _due(self) -> list[Stoppable]:
        now = time.monotonic()
        with self._lock:
            due = [call for call, deadline in self._deadlines.items() if deadline <= now]
            for call in due:
                del self._deadlines[call]
        return due
