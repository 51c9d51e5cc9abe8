"""Calls that nobody leaves, because a signal handler has raised where the code would do it."""

from __future__ import annotations

import weakref
from typing import Any

from agentcgroup.calls.call import Call
from agentcgroup.calls.ending import rescue
from agentcgroup.scope import current

__all__ = ["abandon", "end_with"]


def abandon(call: Call, error: BaseException | None) -> None:
    """End a call whose body never begins, or that nobody leaves: a signal handler has raised."""
    call.services.deferred.hand_over((rescue, call, error))
    if current.get() is call:
        current.set(call.parent)


class _Block(weakref.ref[Any]):
    """Ends a call when the object that was to leave it is gone.

    The object's end queues this among the deferred jobs by one call of C code. A method ``__del__``
    would run in the main thread: what a signal handler raises there is lost.
    """

    __slots__ = ("call",)

    call: Call

    def __call__(self) -> None:
        rescue(self.call, None)


def end_with(call: Call, block: object) -> None:
    """End the call where `block` is gone and has not: a signal handler raised before it could."""
    end = _Block(block, call.services.deferred.hand_over)
    end.call = call
    call.note_block(end)
