"""Memory limits where the kernel cannot hold them: look, add up, and end the call that is over.

Without the memory controller (cgroup v1 has it, a container's cgroupfs is read-only, no rights) one
thread looks ten times a second at the processes of each call that has a memory_max. It sees a burst
late and a short one not at all, which is why it is the fallback and never the way.
"""

from __future__ import annotations

import contextvars
import logging
import os
import re
import threading
from collections.abc import Iterable
from typing import Final, Protocol

__all__ = ["Sampled", "Sampler", "footprint"]

logger = logging.getLogger("agentcgroup")

_PERIOD_S: Final = 0.1
_PAGE: Final = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
_PSS: Final = re.compile(rb"^Pss_(?:Anon|Shmem): +(\d+) kB$", re.MULTILINE)


class Sampled(Protocol):
    """A call as the sampler sees it."""

    def stop(self, reason: str) -> None:
        """End every process, and let no new one start."""

    def pids(self) -> list[int]:
        """Return its processes."""


class Sampler:
    """Looks at calls from a daemon thread, which is there while there is something to look at."""

    def __init__(self) -> None:
        self._limits: dict[Sampled, int] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def watch(self, call: Sampled, memory_max: int) -> None:
        """Stop `call` when its processes together use more than `memory_max` bytes."""
        with self._lock:
            self._limits[call] = memory_max
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, name="agentcgroup-sampler", daemon=True
                )
                # An empty context: the thread must not belong to the call that starts it.
                contextvars.Context().run(self._thread.start)

    def forget(self, call: Sampled) -> None:
        """Look at `call` no more."""
        with self._lock:
            self._limits.pop(call, None)

    def _work(self) -> None:
        pause = threading.Event()
        while not pause.wait(_PERIOD_S):
            with self._lock:
                watched = list(self._limits.items())
                if not watched:
                    self._thread = None
                    return
            for call, memory_max in watched:
                try:
                    if footprint(call.pids(), memory_max) > memory_max:
                        self.forget(call)
                        call.stop("memory_max")
                except Exception:
                    logger.exception("agentcgroup: the memory of a call could not be sampled")


def footprint(pids: Iterable[int], enough: int) -> int:
    """Return the bytes that processes use together: anonymous and shared memory, no page cache.

    A first sum counts a page once per process that has it, as forked processes share many. Only
    where that is above `enough` the exact sum is made, which takes the kernel milliseconds.
    """
    pids = list(pids)
    rough = sum(map(_private, pids))
    return rough if rough <= enough else sum(map(_proportional, pids))


def _private(pid: int) -> int:
    """Resident pages that are no file's; /proc/PID/statm (proc(5)) has them in pages."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            _, resident, shared, *_ = file.read().split()
    except OSError:
        return 0
    return (int(resident) - int(shared)) * _PAGE


def _proportional(pid: int) -> int:
    """Its share of each anonymous and shmem page (smaps_rollup, Linux 4.14)."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            return 1024 * sum(int(kilobytes) for kilobytes in _PSS.findall(file.read()))
    except OSError:
        return 0
