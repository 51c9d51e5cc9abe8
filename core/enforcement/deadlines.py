"""What a limit does to a call: the deadline that ends it, and the reading of how it ended.

What the kernel can do alone (memory.max, memory.oom.group, pids.max, cpu.max) it does alone; this
module only reads afterwards what it did. Deadlines are ours: one thread sleeps until the earliest.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterable
from typing import Protocol

from agentcgroup.cgroup import Events
from agentcgroup.records.record import Outcome
from agentcgroup.scope import start_thread

__all__ = ["Deadlines", "Stoppable", "verdict"]

logger = logging.getLogger("agentcgroup")


class Stoppable(Protocol):
    """What the watcher can end."""

    def stop(self, reason: str) -> None:
        """End every process, and let no new one start."""


class Deadlines:
    """Stops calls whose time is over, from a daemon thread started at the first deadline.

    A call is armed at its first child, so those that began first need not be the first ones here:
    the earliest deadline is looked for whenever the thread wakes. Arming and disarming cost a dict
    entry, and nothing of a finished call stays.
    """

    def __init__(self) -> None:
        self._deadlines: dict[Stoppable, float] = {}
        self._lock = threading.Lock()
        self._earlier = threading.Event()
        self._wakes_at = math.inf
        self._thread: threading.Thread | None = None
        self._closed = False

    def arm(self, call: Stoppable, deadline: float) -> None:
        """Stop `call` at `deadline` (`time.monotonic`)."""
        with self._lock:
            self._deadlines[call] = deadline
            earlier = deadline < self._wakes_at
            if self._thread is None:
                self._thread = start_thread(self._work, "watcher")
        if earlier:
            self._earlier.set()

    def disarm(self, call: Stoppable) -> None:
        """Forget `call`."""
        with self._lock:
            self._deadlines.pop(call, None)

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


def verdict(
    *,
    stopped: str | None,
    error: BaseException | None,
    cancelled: bool,
    events: Events | None,
    above: Iterable[tuple[str, Events]],
    leftovers: bool,
    died: str | None = None,
) -> tuple[Outcome, str | None]:
    """Say how a call ended and why, from what we did to it and what the kernel counted.

    Args:
        stopped: why we stopped it, None when we did not.
        error: what the tool raised.
        cancelled: the framework gave the call up.
        events: of the call's own cgroup.
        above: ("agent.memory_max", events) of each cgroup above it, nearest first; read only when
            a process was killed and the call's own limit was not reached.
        leftovers: processes were still running when the tool had ended, and were killed.
        died: how the worker process that ran the tool's body ended before it, if it did.
    """
    if stopped == "timeout":
        return "timeout", "timeout"
    # memory.oom.group may count one victim twice: more than none is all that the counter says.
    if events is not None and events.oom_kill:
        return "oom", "memory_max" if events.oom_local else _which_limit(above)
    if stopped == "memory_max":  # seen by the sampler, where the kernel holds no memory limit
        return "oom", "memory_max"
    if cancelled or stopped == "cancelled":
        return "cancelled", "cancelled"
    if stopped is not None:
        return "killed", stopped
    if died is not None:
        return "killed", died
    if events is not None and events.pids_max:
        if leftovers:
            return "killed", "pids_max"
        return ("error" if error is not None else "ok"), "pids_max"
    if error is not None:
        return "error", "leftovers" if leftovers else None
    return "ok", "leftovers" if leftovers else None


def _which_limit(above: Iterable[tuple[str, Events]]) -> str:
    for reason, events in above:
        if events.oom_local:
            return reason
    return "system"
