"""memory_max where the kernel has no memory controller: sample, add up, and stop the call.

Without the controller (cgroup v1 has it, a container's cgroupfs is read-only, no rights) one thread
samples the processes of each call that has a memory_max ten times a second. Sampling sees a burst
late and a short burst not at all: it is a fallback, and `agentcgroup doctor` reports it as one.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from typing import Final, Protocol

from agentcgroup.threads import Lock, Thread, sleep, start_thread

__all__ = ["MemorySampler", "Sampled", "footprint"]

logger = logging.getLogger("agentcgroup")

_PERIOD_S: Final = 0.1
#: Periods without a call after which the thread ends: to start it takes 0.2 ms of a call's time.
_IDLE: Final = 100
_PAGE: Final = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
_PSS: Final = re.compile(rb"^Pss_(?:Anon|Shmem): +(\d+) kB$", re.MULTILINE)


class Sampled(Protocol):
    """What the sampler needs of a call."""

    def stop(self, reason: str) -> None:
        """End every process, and let none start."""

    def pids(self) -> list[int]:
        """Return its processes."""


class MemorySampler:
    """Samples calls from a daemon thread, which ends when no call was watched for 10 s."""

    def __init__(self) -> None:
        self._limits: dict[Sampled, int] = {}
        self._lock = Lock()
        self._thread: Thread | None = None
        self._told = False

    def watch(self, call: Sampled, memory_max: int) -> None:
        """Stop `call` when its processes together use more than `memory_max` bytes."""
        with self._lock:
            self._limits[call] = memory_max
            if self._thread is None:
                self._start()

    def forget(self, call: Sampled) -> None:
        """Stop sampling `call`."""
        with self._lock:
            self._limits.pop(call, None)

    def _start(self) -> None:
        """Start the thread; where there can be none, a tool does not fail for it."""
        try:
            self._thread = start_thread(self._work, "memory-sampler")
        except RuntimeError as error:
            if not self._told:
                self._told = True
                logger.error("agentcgroup: memory_max is not enforced: %s", error)  # noqa: TRY400

    def _work(self) -> None:
        idle = 0
        while True:
            sleep(_PERIOD_S)
            with self._lock:
                watched = list(self._limits.items())
                idle = 0 if watched else idle + 1
                if idle > _IDLE:
                    self._thread = None
                    return
            for call, memory_max in watched:
                try:
                    if footprint(call.pids(), memory_max) > memory_max:
                        self.forget(call)
                        call.stop("memory_max")
                except Exception:
                    if call in self._limits:  # otherwise the call has ended during the sample
                        logger.exception("agentcgroup: the memory of a call could not be sampled")


def footprint(pids: Iterable[int], enough: int) -> int:
    """Return the bytes that processes use together: anonymous and shared memory, no page cache.

    A first sum counts a page once for each process that maps it, and forked processes share many.
    The exact sum is made where that one is above `enough`: it takes the kernel milliseconds.
    """
    pids = list(pids)
    rough = sum(map(_private, pids))
    return rough if rough <= enough else sum(map(_proportional, pids))


def _private(pid: int) -> int:
    """Return the bytes of resident pages of no file, from /proc/PID/statm (proc(5))."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            _, resident, shared, *_ = file.read().split()
    except OSError:
        return 0
    return (int(resident) - int(shared)) * _PAGE


def _proportional(pid: int) -> int:
    """Return the bytes of its share of each anonymous and shmem page (smaps_rollup, Linux 4.14)."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            return 1024 * sum(int(kilobytes) for kilobytes in _PSS.findall(file.read()))
    except OSError:
        return 0
