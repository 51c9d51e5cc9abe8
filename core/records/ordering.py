"""Puts the entries of one observer in the order in which their calls ended.

A call is queued just before the time of its end is taken, and some calls are settled long after
that. So once the queue is empty, every call that ended before `horizon`, a moment before the
queue was read, is here. Such calls are due in the order of their ends, up to the first one that is
not settled. No call pays for that: there is no lock and no counter.
"""

from __future__ import annotations

import logging
import time
from typing import Final, Protocol

from agentcgroup.records.record import CallRecord
from agentcgroup.threads import Event

__all__ = ["EndOrder", "Recorded"]

logger = logging.getLogger("agentcgroup")

#: Seconds after its end from which on a call that is not settled keeps later calls waiting no more.
_SETTLE_WAIT: Final = 10.0
#: Seconds for which a call whose end is being taken, in another thread, keeps all others waiting.
_END_WAIT: Final = 1.0


class Recorded(Protocol):
    """An entry of the bus: `calls.call.Call`, which is about to end or has ended."""

    @property
    def ended(self) -> float | None:
        """When it ended, by `time.monotonic`; None for the moment until that is taken."""

    @property
    def settled(self) -> bool:
        """Whether its record can be made, and will not change."""

    @property
    def record(self) -> CallRecord:
        """The record, made at the first use; observers' threads may ask at the same time."""


class EndOrder:
    """The entries that wait for their turn; used by one thread.

    Attributes:
        late: entries that later ones have overtaken, since they are not settled in time.
    """

    def __init__(self) -> None:
        self._waiting: dict[Recorded, int] = {}  # with the number of each one's arrival
        self._marks: list[tuple[int, Event]] = []
        self._arrivals = 0
        self._unended_since: float | None = None
        self._overtaken_logged = False
        self.late: list[Recorded] = []

    def __len__(self) -> int:
        """Return how many entries wait, without the late ones."""
        return len(self._waiting)

    @property
    def marked(self) -> bool:
        """Whether a mark is not reached yet."""
        return bool(self._marks)

    def add(self, item: Recorded | Event) -> None:
        """Add an entry, once, or a mark behind all entries so far."""
        self._arrivals += 1
        if isinstance(item, Event):
            self._marks.append((self._arrivals, item))
        else:
            self._waiting.setdefault(item, self._arrivals)

    def due(self, horizon: float) -> list[Recorded]:
        """Take out what is to be delivered now.

        Args:
            horizon: a moment before the queue was read, by `time.monotonic`.
        """
        now = time.monotonic()
        due = [one for one in self.late if one.settled]
        self.late = [one for one in self.late if not one.settled]
        ended = [(one.ended, number, one) for one, number in self._waiting.items()]
        if all(end is not None for end, _, _ in ended):
            self._unended_since = None
        elif self._unended_since is None or now - self._unended_since < _END_WAIT:
            self._unended_since = self._unended_since or now
            return self._without(due)
        for end, _, one in sorted(
            (end, number, one) for end, number, one in ended if end is not None and end <= horizon
        ):
            if one.settled:
                due.append(one)
            elif now - end < _SETTLE_WAIT:
                break
            else:
                self._overtake(one)
        return self._without(due)

    def set_marks(self, *, every: bool = False) -> None:
        """Set each mark before which no entry waits, or every mark."""
        first = min(self._waiting.values(), default=self._arrivals + 1)
        for number, mark in self._marks:
            if every or number < first:
                mark.set()
        self._marks = [] if every else [one for one in self._marks if one[0] > first]

    def _without(self, due: list[Recorded]) -> list[Recorded]:
        for one in due:
            self._waiting.pop(one, None)
        return due

    def _overtake(self, one: Recorded) -> None:
        del self._waiting[one]
        self.late.append(one)
        if not self._overtaken_logged:
            self._overtaken_logged = True
            logger.warning(
                "agentcgroup: a call that ended %g s ago has no complete record yet: the records"
                " of later calls come before it",
                _SETTLE_WAIT,
            )
