"""Events: what processes of calls do, reported while it happens."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from agentcgroup import threads

__all__ = ["Event", "Stream"]

#: Events that a stream keeps until they are read; further ones push out the oldest.
_KEPT: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that a process of a call did, or that was done to it.

    Attributes:
        kind: ``fork``: the process began; ``exec``: it executed another program; ``exit``: it
            ended; ``oom``: the kernel's OOM killer kills it; ``escape``: it was found outside of
            its call's cgroup and moved back in.
        time: Unix time in seconds.
        call: id of the call, as in its `CallRecord`; None where the call is over already.
        pid: the process.
        ppid: for ``fork`` the process that forked, else None.
        program: for ``exec`` the path of the program, as in `records.Program`, else None.
        exit_code: for ``exit`` the exit code, None when a signal ended the process.
        signal: for ``exit`` the signal that ended the process, else None.
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
    """Events for one reader: iterate over it in a thread of your own; it ends when it is closed.

    Attributes:
        lost: events that were dropped because the reader was more than 10 000 events behind.
    """

    def __init__(self, on_close: Callable[[Stream], None]) -> None:
        """Begin empty; `close` calls `on_close` with the stream."""
        self.lost = 0
        self._on_close = on_close
        self._events: deque[Event] = deque()
        self._lock = threads.Lock()
        self._changed = threads.Event()
        self._closed = False

    def put(self, event: Event) -> None:
        """Append an event; never waits."""
        with self._lock:
            if len(self._events) >= _KEPT:
                self._events.popleft()
                self.lost += 1
            self._events.append(event)
        self._changed.set()

    def get(self, timeout: float | None = None) -> Event | None:
        """Return the next event, oldest first; None at the timeout and at the end of the stream.

        Args:
            timeout: seconds to wait, None for no bound.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._lock:
                if self._events:
                    return self._events.popleft()
                if self._closed:
                    return None
                self._changed.clear()
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return None
            self._changed.wait(left)

    def close(self) -> None:
        """End the iteration behind the events that are in the stream already."""
        with self._lock:
            self._closed = True
        self._changed.set()
        self._on_close(self)

    def __iter__(self) -> Iterator[Event]:
        while (event := self.get()) is not None:
            yield event

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
