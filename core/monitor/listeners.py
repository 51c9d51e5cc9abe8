"""The listeners of one session: callables that get each `Event`, on the monitor's thread."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from agentcgroup.monitor.events import Event

__all__ = ["Listener", "Listeners"]

logger = logging.getLogger("agentcgroup")

Listener = Callable[[Event], None]


class Listeners:
    """Turns the helper's events into `Event` and calls every listener with each."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []
        self._epoch = time.time() - time.monotonic()

    def __bool__(self) -> bool:
        return bool(self._listeners)

    def add(self, listener: Listener) -> None:
        """Call `listener` with every event from now on."""
        self._listeners.append(listener)

    def remove(self, listener: Listener) -> None:
        """Stop calling `listener`; one that was not added is no error."""
        with contextlib.suppress(ValueError):
            self._listeners.remove(listener)

    def dispatch(self, sent: Sequence[Any], call: str | None) -> None:
        """Call every listener with one event; what a listener raises is logged.

        Args:
            sent: the event as the helper sends it, see `helper`.
            call: id of the call, None where it is over.
        """
        kind, moment, _, pid, parent, program, status = sent
        ended = kind == "exit"
        number = status & 0x7F
        event = Event(
            kind=kind,
            time=self._epoch + moment,
            call=call,
            pid=pid,
            ppid=parent if kind == "fork" else None,
            program=program,
            exit_code=status >> 8 & 0xFF if ended and not number else None,
            signal=number if ended and number else None,
        )
        for listener in tuple(self._listeners):
            try:
                listener(event)
            except Exception:
                logger.exception("agentcgroup: an on_event callback failed")
