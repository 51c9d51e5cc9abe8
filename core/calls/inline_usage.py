"""Estimates of what a tool that runs inline uses of the process it shares, from two readings.

The tool's own thread reads its CPU time, and the peak of the process's resident memory, when the
tool begins and when it ends. The first reading leaves out the work of the tool's other threads. The
second includes what other threads allocate in the meantime.

Both come from one getrusage(2). It counts the CPU time of a running thread up to the last timer
tick, so the estimate is some milliseconds off. A clock in nanoseconds takes one more system call,
as does any other source of the memory; each is 0.5 % of a call by LangChain.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["Metered", "Used", "metered", "read", "since"]

#: CPU time of a thread in microseconds and peak memory of the process in KiB; or their growth.
Used = tuple[int, int]

if sys.platform == "linux":
    try:
        from agentcgroup._native import usage as read  # takes half the time
    except ImportError:
        from resource import RUSAGE_THREAD, getrusage

        def read() -> Used:
            """Read both figures, for the calling thread."""
            used = getrusage(RUSAGE_THREAD)
            return round((used.ru_utime + used.ru_stime) * 1e6), used.ru_maxrss

else:

    def read() -> Used:
        """Return zeros: on this system there are no calls to account for."""
        return 0, 0


def since(begin: Used) -> Used:
    """Return what the calling thread has used since it read `begin`."""
    spent, peak = read()
    return spent - begin[0], peak - begin[1]


class Metered(Protocol):
    """A call that takes note of what its tool used inline."""

    def note_inline_usage(self, used: Used) -> None:
        """Note what the sync body used inline, measured by the thread that ran it."""


def metered(call: Metered, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a sync `function` that notes its inline usage on `call`.

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
