"""The log line about a call whose body runs on past its deadline: who, where, and what ends it.

A deadline ends processes and cancels tasks. Python has no safe way to end a function that runs in a
thread of the program, such as one that waits for a lock, a queue or a socket.
"""

from __future__ import annotations

import sys
import time
import traceback
from typing import TYPE_CHECKING, Final

from agentcgroup.units import format_duration

if TYPE_CHECKING:
    from agentcgroup.calls.call import Call

__all__ = ["tell_overdue"]

#: Number of frames of the stack that are shown, the innermost ones.
_FRAMES: Final = 16


def tell_overdue(call: Call) -> None:
    """Log, once per tool, that a sync body runs on, with the stack of its thread.

    An async body is not reported: its task was cancelled.
    """
    if call.ended is not None or call.awaited or call.isolation != "inline":
        return
    timeout = format_duration(call.policy.timeout or 0.0)
    ran = format_duration(time.monotonic() - call.started)
    call.services.warn(
        f"tool {call.tool!r} still runs after {ran}, past its timeout of {timeout}: a function "
        'that runs inside the program cannot be ended. isolation = "process" runs it where it can '
        f"be. Its thread is here (most recent call last):\n{_stack(call.thread)}",
        about=f"overdue: {call.framework} {call.tool}",
    )


def _stack(thread: int) -> str:
    frame = sys._current_frames().get(thread)
    if frame is None:  # a greenlet's id, or the thread has ended
        return "  (unknown)"
    return "".join(traceback.format_stack(frame)[-_FRAMES:]).rstrip()
