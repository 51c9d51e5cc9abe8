"""How a call ends: its processes end, it is judged, its usage is read, its record is handed over.

A call that met no limit settles after the tool has its result, in `deferred`. A call that met one
settles at once, because the answer to the model carries the figures.

The end of an async call does not block its event loop: what waits for processes or for the monitor
runs `off_loop`. Whatever is raised here, each call is judged, settled and removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable
from typing import Final

from agentcgroup import off_loop
from agentcgroup.calls.above import events_above
from agentcgroup.calls.call import Call
from agentcgroup.calls.cancellation import GIVEN_UP, Expiry
from agentcgroup.calls.contained import ContainedCall
from agentcgroup.calls.inline_usage import Used
from agentcgroup.enforcement.verdict import verdict
from agentcgroup.errors import Unshippable
from agentcgroup.monitor.client import HURRY, PATIENCE
from agentcgroup.records.record import Outcome

__all__ = ["afinish", "finish", "rescue"]

logger = logging.getLogger("agentcgroup")

#: Seconds in which processes of a tool that has ended may end by themselves before they count as
#: leftovers: a pipeline's last member or a server told to stop is on its way out.
_LINGER: Final = 0.05


def finish(
    call: Call,
    error: BaseException | None = None,
    *,
    cancelled: bool = False,
    used: Used | None = None,
    postponed: list[Callable[[], object]] | None = None,
) -> bool:
    """End, judge and settle a call; return whether its end is worth telling the model.

    Args:
        call: the call, whose record is complete when this returns True.
        error: what its body raised.
        cancelled: the framework gave it up.
        used: what its sync body used inline.
        postponed: gets what is to be done about the processes of the call, which may wait for them,
            for the caller to do; None to do it here.
    """
    services = call.services
    if not services.here[0]:
        services.left_to_parent()  # a fork without Python's hooks has left the body, too
        call.abandon()
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
        elif call.stopped == "timeout" and not call.awaited:
            _set_outcome(call, "timeout", "overdue")
            told = error is None  # its own error stands as it is
        else:
            told = _judge(call, None, error, cancelled)
        call.settle()
        if services.bus.subscriptions:
            services.rest()
        return told
    if postponed is None:
        return _conclude(call, contained, error, cancelled)
    postponed.append(functools.partial(_conclude, call, contained, error, cancelled))
    return False


async def afinish(call: Call, expiry: Expiry | None, error: BaseException | None) -> bool:
    """End an async call; return whether `error` is the cancellation by its own deadline."""
    expired = expiry is not None and expiry.end()
    given_up = isinstance(error, GIVEN_UP)
    cancelled = given_up and not expired
    if (call.contained is None and call.slot is None) or not off_loop.has_loop():
        finish(call, error, cancelled=cancelled)
        return given_up and expired
    ended = False  # no process is left
    interrupted: BaseException | None = None
    if not isinstance(error, GeneratorExit):
        try:
            await _adopt(call)
            ended = not given_up and await _linger(call)
        except BaseException as caught:  # the task was given up after the body had ended
            interrupted, cancelled = caught, True
    postponed: list[Callable[[], object]] = []
    finish(call, error, cancelled=cancelled, postponed=postponed)
    for conclude in postponed:
        if ended:
            conclude()
        elif isinstance(interrupted or error, GeneratorExit):
            _conclude_later(call, error)  # who is being closed cannot await
        else:
            await off_loop.run_to_end(conclude)
    if interrupted is not None:
        raise interrupted
    return given_up and expired


async def _adopt(call: Call) -> None:
    """Wait for a child that the monitor has found outside; `Monitor.vacate` then has no need to."""
    if call.slot is not None and call.slot.found_outside():
        wait = functools.partial(call.services.monitor.wait_adopted, call.number)
        await off_loop.run_to_end(wait)


async def _linger(call: Call) -> bool:
    """Give processes time to end by themselves; return whether none is left."""
    waited = 0.0
    while call.stopped is None and call.contained is not None:
        try:
            if call.contained.group.ends_at_once():
                return True
        except OSError:  # the thread that ends the call meets it again, and reports it
            return False
        if waited >= _LINGER or call.contained.group.cgroup is None:
            return False
        await asyncio.sleep(0.005)
        waited += 0.005
    return call.contained is None


def _conclude(
    call: Call, contained: ContainedCall, error: BaseException | None, cancelled: bool
) -> bool:
    """End the processes of an ended call, judge and settle it; return whether its end is told."""
    services = call.services
    try:
        with contained.ending:
            told = _judge(call, contained, error, cancelled)
            if told:
                _settle(call, contained, HURRY)
    except BaseException:  # such as KeyboardInterrupt during a wait
        services.deferred.put(functools.partial(_rescue, call, contained, error, cancelled))
        raise
    if told:
        services.deferred.put(contained.remove)
    else:
        assert call.ended is not None
        settle = functools.partial(_settle_and_remove, call, contained)
        services.deferred.put(settle, call.ended - call.started)
    services.rest()
    return told


def _conclude_later(call: Call, error: BaseException | None) -> None:
    """Kill the processes of a call that was given up, and leave the rest to the deferred jobs."""
    contained = call.contained
    assert contained is not None
    if contained.group.cgroup is not None:
        with contextlib.suppress(OSError):  # the deferred job kills again, and reports it
            contained.group.kill()
    call.services.deferred.put(functools.partial(_rescue, call, contained, error, True))


def rescue(call: Call, error: BaseException | None) -> None:
    """Do what is left to do for a call that is over, where a signal handler has raised meanwhile.

    Handed over to the deferred jobs: only the main thread runs signal handlers, and they may raise
    between any two lines there. Changes nothing where nothing is left.
    """
    services = call.services
    if call.ended is None:
        if call.slot is not None:
            with contextlib.suppress(ValueError):  # it has left the board
                services.monitor.vacate(call, call.slot)
        services.ending(call)
        call.end()
    services.running.discard(call)
    contained = call.contained
    if contained is not None:
        _rescue(call, contained, error, cancelled=False)
    elif not call.settled:
        if call.outcome is None:
            _judge(call, None, error, cancelled=False)
        call.settle()


def _rescue(
    call: Call, contained: ContainedCall, error: BaseException | None, cancelled: bool
) -> None:
    """Do what is left to do for an ended call."""
    try:
        with contained.ending:
            if call.outcome is None:
                _judge(call, contained, error, cancelled)
    finally:
        if call.settled:
            contained.remove()
        else:
            _settle_and_remove(call, contained)


def _judge(
    call: Call, contained: ContainedCall | None, error: BaseException | None, cancelled: bool
) -> bool:
    """End the processes and say how the call ended; return whether that is told."""
    leftovers = False
    events = None
    judge = functools.partial(
        verdict, stopped=call.stopped, error=error, cancelled=cancelled, died=call.died
    )
    if contained is None:
        judged = judge(events=None, above=(), leftovers=False)
    else:
        try:
            leftovers = contained.group.end(
                over=cancelled or call.stopped is not None,
                keep=error is None and call.policy.background == "keep",
                linger=_LINGER,
                grace=call.policy.leftover_grace,
            )
            events = contained.events()
            judged = judge(events=events, above=events_above(call), leftovers=leftovers)
        except Exception as fault:
            if _of_signal_handler(fault):
                raise
            # Its removal kills once more. The tool has its result whatever cgroupfs answers.
            logger.exception(
                "agentcgroup: the processes of call %s may not be ended, or what befell them is not"
                " known",
                call.id,
            )
            judged = judge(events=events, above=(), leftovers=leftovers)
    _set_outcome(call, *judged)
    told = call.told
    if contained is not None and events is not None and not told:
        contained.give_back(events)
    return told


def _of_signal_handler(error: Exception) -> bool:
    """Return whether a signal handler raised `error`, which is the program's and not ours.

    The frame in which it was raised is then the handler's.
    """
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    where = "" if traceback is None else traceback.tb_frame.f_globals.get("__name__", "")
    return not where.startswith("agentcgroup.")


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
    contained.unwatch()
    group = contained.group
    if group.cgroup is not None:
        try:
            seen = call.services.monitor.seen(
                group.cgroup, call.started, tuple(group.started), patience
            )
        except Exception as fault:
            if _of_signal_handler(fault):
                raise
            logger.exception("agentcgroup: what the monitor saw of call %s is lost", call.id)
            seen = None
        # In a cgroup that serves several calls the monitor sees the sum of them.
        call.note_observed(seen if call.kept_for is None else None)
    _ = call.record
    call.settle()


def _settle_and_remove(call: Call, contained: ContainedCall) -> None:
    try:
        with contained.ending:
            if not call.settled:
                _settle(call, contained, PATIENCE)
    finally:
        contained.remove()
