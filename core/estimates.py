"""What a tool that runs inline has used of the process it shares: estimates, from two readings.

Read on the tool's own thread as it begins and as it ends: the CPU time of that thread, and the
peak of the process's resident memory. Both together cost a microsecond. What the tool does on
other threads is not in the first; what other threads do meanwhile is in the second.
"""

from __future__ import annotations

import sys
from time import thread_time_ns
from typing import NamedTuple

__all__ = ["Reading", "Used", "read", "used"]


class Used(NamedTuple):
    """What a call used, as far as its thread and its process tell."""

    thread_cpu_s: float
    memory_growth_bytes: int


#: CPU time of the thread in nanoseconds, peak of the process in KiB.
Reading = tuple[int, int]

if sys.platform == "linux":
    from resource import RUSAGE_THREAD, getrusage

    def read() -> Reading:
        """Read both, for the calling thread."""
        # getrusage(2) knows the thread's time, too, but only as of the last timer tick; asked for
        # one thread it is the cheapest way to the peak (ru_maxrss), which is the process's.
        return thread_time_ns(), getrusage(RUSAGE_THREAD).ru_maxrss

else:

    def read() -> Reading:
        """Read the time alone: there are no calls to account for."""
        return thread_time_ns(), 0


def used(begin: Reading) -> Used:
    """Return what was used since `begin`, which the same thread has read."""
    cpu, peak = read()
    return Used((cpu - begin[0]) / 1e9, (peak - begin[1]) * 1024)
