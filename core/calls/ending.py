"""How a call ends: its processes end, it is judged, its usage is read, its record is handed over.

A call that met no limit settles after the tool has its result, in `deferred`. A call that met one
settles at once, because the answer to the model carries the figures.
"""

from __future__ import annotations

import asyncio
import functools
from typing import Final

from agentcgroup.calls.call import Call
from agentcgroup.calls.cancellation import GIVEN_UP, Expiry
from agentcgroup.calls.contained import ContainedCall
from agentcgroup.calls.inline_usage import Used
from agentcgroup.enforcement.verdict import verdict
from agentcgroup.errors import Unshippable
from agentcgroup.monitor.client import HURRY, PATIENCE
from agentcgroup.records.record import Outcome

__all__ = ["afinish", "finish"]

#: Seconds in which processes of a tool that has ended may end by themselves before they count as
#: leftovers: a pipeline's last member or a server told to stop is on its way out.
_LINGER: Final = 0.05


def finish(
    call: Call,
    error: BaseException | None = None,
    *,
    cancelled: bool = False,
    used: Used | None = None,
) -> bool:
    """End, judge and settle a call; return whether its end is worth telling the model.

    Args:
        call: the call, whose record is complete when this returns True.
        error: what its body raised.
        cancelled: the framework gave it up.
        used: what its sync body used inline.
    """
    services = call.services
    if call.slot is not None:
        services.monitor.vacate(call, call.slot)
    contained = call.contained
    if contained is not None and any(above.stopped is not None for above in call.around()):
        call.request_stop("cancelled")  # its processes were killed with those of the call around it
    services.ending(call)
    call.end(used, cancelled=cancelled)
    if contained is None:
        if call.stopped is None:
            if call.unshippable is None:
                call.judge("ok" if error is None else "error", None)
            else:
                _set_outcome(call, "ok" if error is None else "error", None)
            told = call.refused
        else:
            told = _judge(call, None, error, cancelled)
        call.settle()
        return told
    told = _judge(call, contained, error, cancelled)
    if told:
        _settle(call, contained, HURRY)
        services.deferred.put(contained.remove)
    else:
        assert call.ended is not None
        settle = functools.partial(_settle_and_remove, call, contained)
        services.deferred.put(settle, call.ended - call.started)
    return told


async def afinish(call: Call, expiry: Expiry | None, error: BaseException | None) -> bool:
    """End an async call; return whether `error` is the cancellation by its own deadline."""
    expired = expiry is not None and expiry.end()
    cancelled = isinstance(error, GIVEN_UP)
    if not cancelled:
        try:
            await _linger(call)
        except BaseException:  # the task was cancelled after the body had ended
            finish(call, error, cancelled=True)
            raise
    finish(call, error, cancelled=cancelled and not expired)
    return cancelled and expired


async def _linger(call: Call) -> None:
    """Give processes time to end by themselves, without blocking the event loop."""
    waited = 0.0
    while (
        waited < _LINGER
        and call.stopped is None
        and call.contained is not None
        and call.contained.group.populated()
    ):
        await asyncio.sleep(0.005)
        waited += 0.005


def _judge(
    call: Call, contained: ContainedCall | None, error: BaseException | None, cancelled: bool
) -> bool:
    """End the processes and say how the call ended; return whether that is told."""
    leftovers = False
    if contained is not None:
        leftovers = contained.group.end(
            over=cancelled or call.stopped is not None,
            keep=error is None and call.policy.background == "keep",
            linger=_LINGER,
            grace=call.policy.leftover_grace,
        )
    events = None if contained is None else contained.events()
    outcome, reason = verdict(
        stopped=call.stopped,
        error=error,
        cancelled=cancelled,
        events=events,
        above=contained.events_above() if contained is not None else (),
        leftovers=leftovers,
        died=call.died,
    )
    _set_outcome(call, outcome, reason)
    told = call.told
    if contained is not None and events is not None and not told:
        contained.give_back(events)
    return told


def _set_outcome(call: Call, outcome: Outcome, reason: str | None) -> None:
    """Judge the call; what could not be sent to a worker is the reason where there is no other."""
    unshippable = call.unshippable
    if unshippable is not None:
        if reason is None:
            reason = _unshippable_reason(call, unshippable)
        if call.refused and outcome == "error" and not unshippable.ran:
            outcome = "rejected"
    call.judge(outcome, reason)


def _unshippable_reason(call: Call, unshippable: Unshippable) -> str:
    asked = call.policy.isolation_source
    return f"unshippable: {unshippable.what} ({unshippable.kind}); by {asked}"


def _settle(call: Call, contained: ContainedCall, patience: float) -> None:
    """Read what the call used, while its cgroup is there, and hand over the record.

    Waits up to `patience` seconds for what the monitor saw.
    """
    contained.disarm()
    group = contained.group
    if group.cgroup is not None:
        seen = call.services.monitor.seen(group.cgroup, tuple(group.started), patience)
        # In a cgroup that serves several calls the monitor sees the sum of them.
        call.note_observed(seen if call.kept_for is None else None)
    _ = call.record
    call.settle()


def _settle_and_remove(call: Call, contained: ContainedCall) -> None:
    try:
        _settle(call, contained, PATIENCE)
    finally:
        contained.remove()
