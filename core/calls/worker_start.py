"""The time until a tool's code begins in its worker, which does not count against its timeout."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from agentcgroup.enforcement.deadlines import START_MOST

if TYPE_CHECKING:
    from agentcgroup.isolation.worker_handle import Worker

__all__ = ["WorkerStart"]

#: Seconds until a deadline that waits for the start of a worker is looked at again.
_LOOK_AGAIN: Final = 0.05
#: Seconds of a worker's birth that do not count, where the fork server has nothing else to do: it
#: may be stopped.
_BIRTH_MOST: Final = 2.0


class WorkerStart:
    """When the worker of a call was born, and imported the tool's modules."""

    __slots__ = ("_imported", "_importing")

    def __init__(self) -> None:
        self._importing: float | None = None
        self._imported: float | None = None

    def note_importing(self, begins: bool) -> None:
        """Note when the worker begins to import the tool's modules, and when it has them."""
        if not begins:
            self._imported = time.monotonic()
        elif self._importing is None:  # a worker that says so again gains nothing
            self._importing = time.monotonic()

    def deadline(self, workers: Sequence[Worker], began: float, timeout: float) -> float:
        """Return the deadline of a call whose timeout begins with the tool's code.

        While the worker starts, this is a moment at which to look again. Args as of `seconds`, and
        the call's timeout in seconds.
        """
        start = self.seconds(workers, began)
        deadline = began + timeout + start
        if start < START_MOST and self._is_going_on(workers):
            return max(deadline, time.monotonic() + _LOOK_AGAIN)
        return deadline

    def seconds(self, workers: Sequence[Worker], began: float) -> float:
        """Return the seconds that it has taken, at most START_MOST.

        Args:
            workers: of the call; the first one runs the tool's body.
            began: when the call began, by `time.monotonic`.
        """
        now = time.monotonic()
        spent = 0.0
        if workers:
            born = workers[0].born_at
            spent = max(0.0, (now if born is None else born) - max(workers[0].requested, began))
            if not workers[0].busy:
                spent = min(spent, _BIRTH_MOST)
        if self._importing is not None:
            spent += (now if self._imported is None else self._imported) - self._importing
        return min(spent, START_MOST)

    def _is_going_on(self, workers: Sequence[Worker]) -> bool:
        """Return whether a worker is not born yet, or imports the tool's modules."""
        unborn = any(
            worker.born_at is None
            and worker.how is None
            and (worker.busy or time.monotonic() - worker.requested < _BIRTH_MOST)
            for worker in workers
        )
        return unborn or (self._importing is not None and self._imported is None)
