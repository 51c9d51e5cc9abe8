"""What a tool that runs inline has used of the process it shares: estimates, from two readings.

Read on the tool's own thread as it begins and as it ends: the CPU time of that thread, and the
peak of the process's resident memory. Both together cost a microsecond. What the tool does on
other threads is not in the first; what other threads do meanwhile is in the second.
"""

from __future__ import annotations

import sys
from time import thread_time_ns

__all__ = ["Reading", "Span", "memory_growth_bytes", "read", "thread_cpu_s"]

#: CPU time of the thread in nanoseconds, peak of the process in KiB.
Reading = tuple[int, int]
#: As it began and as it ended, both read by the thread it ran on. What they mean is worked out
#: when somebody looks at the record.
Span = tuple[Reading, Reading]

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


def thread_cpu_s(span: Span) -> float:
    """Return the CPU seconds of the thread."""
    return (span[1][0] - span[0][0]) / 1e9


def memory_growth_bytes(span: Span) -> int:
    """Return by how much the process's peak rose."""
    return (span[1][1] - span[0][1]) * 1024
