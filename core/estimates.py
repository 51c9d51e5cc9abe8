"""What a tool that runs inline has used of the process it shares: estimates, from two readings.

Read on the tool's own thread as it begins and as it ends: the CPU time of that thread, and the
peak of the process's resident memory. Both together cost a microsecond. What the tool does on
other threads is not in the first; what other threads do meanwhile is in the second.
"""

from __future__ import annotations

import sys
from time import thread_time_ns

__all__ = ["Used", "read", "since"]

#: CPU time of a thread in nanoseconds, and peak of the process in KiB; or how much of them.
Used = tuple[int, int]

if sys.platform == "linux":
    try:
        # Half the time, and every call is read twice.
        from agentcgroup._native import usage as read
    except ImportError:
        from resource import RUSAGE_THREAD, getrusage

        def read() -> Used:
            """Read both, for the calling thread."""
            # getrusage(2) knows the thread's time, too, but only as of the last timer tick; asked
            # for one thread it is the cheapest way to the peak (ru_maxrss), the process's.
            return thread_time_ns(), getrusage(RUSAGE_THREAD).ru_maxrss

else:

    def read() -> Used:
        """Read the time alone: there are no calls to account for."""
        return thread_time_ns(), 0


def since(begin: Used) -> Used:
    """Return what has been used since `begin` was read, by the same thread."""
    spent, peak = read()
    return spent - begin[0], peak - begin[1]
