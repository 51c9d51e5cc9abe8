"""What a tool that runs inline has used of the process it shares: estimates, from two readings.

Read on the tool's own thread as it begins and as it ends: the CPU time of that thread, and the
peak of the process's resident memory. What the tool does on other threads is not in the first; what
other threads do meanwhile is in the second.

Both come from one getrusage(2), which knows the CPU time of a running thread as of the last timer
tick, so that it is some milliseconds off. To know it to the nanosecond takes a system call more,
as does any other way to the memory; each is 0.5 % of a call by LangChain.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["Metered", "Used", "metered", "read", "since"]

#: CPU time of a thread in microseconds, and peak of the process in KiB; or how much of them.
Used = tuple[int, int]

if sys.platform == "linux":
    try:
        from agentcgroup._native import usage as read  # takes half the time
    except ImportError:
        from resource import RUSAGE_THREAD, getrusage

        def read() -> Used:
            """Read both, for the calling thread."""
            used = getrusage(RUSAGE_THREAD)
            return round((used.ru_utime + used.ru_stime) * 1e6), used.ru_maxrss

else:

    def read() -> Used:
        """Read nothing: there are no calls to account for."""
        return 0, 0


def since(begin: Used) -> Used:
    """Return what has been used since `begin` was read, by the same thread."""
    spent, peak = read()
    return spent - begin[0], peak - begin[1]


class Metered(Protocol):
    """A call that takes note of what its tool used inline."""

    def note_inline_usage(self, used: Used) -> None:
        """Note what the sync body used inline, measured by the thread that ran it."""


def metered(call: Metered, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a sync `function` that notes on `call` what it uses of the thread it runs on.

    For a framework that runs sync tools on a thread of an async call; for other calls `lifecycle`
    reads the usage itself.
    """

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        begin = read()
        try:
            return function(*args, **kwargs)
        finally:
            call.note_inline_usage(since(begin))

    return run
