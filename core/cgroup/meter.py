"""The usage of each of several calls in the same cgroup: differences of its counters.

Theory of operation: most counters only grow, so the usage of a call is the difference of two reads.
A peak does not grow with each call. Since Linux 6.12 a write resets memory.peak for the descriptor
that it is written to (cgroup-v2.rst, "memory.peak"), which therefore stays open. Before 6.12, and
for pids.peak, a peak that has not risen belongs to an earlier call, and that of this call is not
known.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import fields
from typing import Any, Final

from agentcgroup.cgroup import files
from agentcgroup.cgroup.files import Directory
from agentcgroup.cgroup.stats import Usage

__all__ = ["Meter"]

_PEAKS: Final = ("memory_peak_bytes", "pids_peak")
_READ: Final = (
    files.CPU_STAT,
    files.IO_STAT,
    files.MEMORY_PEAK,
    files.PIDS_PEAK,
)


class Meter:
    """Divides a cgroup's usage into laps; the first begins when the cgroup is made."""

    __slots__ = ("_before", "_directory", "_peak")

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._before: Usage | None = None
        self._peak: int | None = None
        for file in _READ:
            directory.keep_open(file)

    def lap(self, now: Usage) -> Usage:
        """Return the usage since the last lap; `now` is the usage since the cgroup was made."""
        before, self._before = self._before, now
        peak = self._peak_since_reset()
        if before is None:
            return now
        used: dict[str, Any] = {
            field.name: _grown(field.name, getattr(before, field.name), getattr(now, field.name))
            for field in fields(Usage)
        }
        if peak is not None:
            used["memory_peak_bytes"] = peak
        return Usage(**used)

    def _peak_since_reset(self) -> int | None:
        """Return the peak since the last lap and reset it; None where the kernel cannot."""
        try:
            if self._peak is None:
                self._peak = self._directory.watch(files.MEMORY_PEAK, "reset")
                return None
            peak = int(os.pread(self._peak, 64, 0))
            os.pwrite(self._peak, b"reset", 0)
        except OSError:  # before 6.12, or without the controller
            return None
        return peak

    def close(self) -> None:
        """Close the descriptor of memory.peak."""
        peak, self._peak = self._peak, None
        if peak is not None:
            with contextlib.suppress(OSError):
                os.close(peak)

    __del__ = close


def _grown(name: str, before: float | None, now: float | None) -> float | None:
    if before is None or now is None:
        return None
    if name in _PEAKS:
        return now if now > before else None
    return now - before
