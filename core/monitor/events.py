"""What happens in calls, as it happens."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["Event", "Stream"]

#: Events that a stream keeps for a reader that does not come; then the oldest are lost.
_KEPT: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that a process of a call did, or that was done to it.

    Attributes:
        kind: ``fork``: it began; ``exec``: it runs another program; ``exit``: it ended; ``oom``:
            the kernel kills it for memory; ``escape``: it was found outside of its call's cgroup
            and brought in.
        time: Unix time in seconds.
        call: id of the call, as in its `CallRecord`; None where that is over already.
        pid: the process.
        ppid: the one that began it, None but for ``fork``.
        program: what it runs, for ``exec``, as in `records.Program`.
        exit_code: with which it ended, None when a signal ended it, for ``exit``.
        signal: by which it was ended, None else.
    """

    kind: Literal["fork", "exec", "exit", "oom", "escape"]
    time: float
    call: str | None
    pid: int
    ppid: int | None = None
    program: str | None = None
    exit_code: int | None = None
    signal: int | None = None


class Stream:
    """Events for one reader: iterate it in a thread of your own; it ends when it is closed.

    Attributes:
        lost: events that were not fetched in time.
    """

    def __init__(self, on_close: Callable[[Stream], None]) -> None:
        """Begin empty; `on_close` hears of the end."""
        self.lost = 0
        self._on_close = on_close
        self._events: deque[Event] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, event: Event) -> None:
        """Add an event; never waits."""
        with self._changed:
            if len(self._events) >= _KEPT:
                self._events.popleft()
                self.lost += 1
            self._events.append(event)
            self._changed.notify()

    def get(self, timeout: float | None = None) -> Event | None:
        """Return the next event; None when none came in `timeout` seconds, or it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._events or self._closed, timeout)
            return self._events.popleft() if self._events else None

    def close(self) -> None:
        """End the iteration behind the events that are there already."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._on_close(self)

    def __iter__(self) -> Iterator[Event]:
        while (event := self.get()) is not None:
            yield event

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
