"""The life of a call, step by step: the one door for adapters, `call`, `isolate` and `exec`.

::

    resolve    open_call   the policy of this framework, agent and tool
    admit      enter       the call begins
    enter      enter       the call is current: children are born in its cgroup
    run        run, arun, astream, or a block of code
    leave      leave       the call is no longer current; its processes end
    judge      _judge      outcome and reason, from the kernel's counters
    settle     _settle     usage is read, the record is handed over, the cgroup is removed
    answer     _answered   a limit's sentence, in the framework's form

A call that met no limit settles after the tool has its result, in `deferred`. A call that met one
settles at once, because the answer to the model carries the figures. A step that every call has to
go through is added here, and in no adapter.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextvars import Token
from typing import Any, Final, Protocol, TypeVar

from agentcgroup import scope
from agentcgroup.calls import feedback, inline_usage
from agentcgroup.calls.call import Call
from agentcgroup.calls.cancellation import GIVEN_UP, Expiry, step
from agentcgroup.calls.contained import ContainedCall
from agentcgroup.calls.inline_usage import Used
from agentcgroup.calls.services import Services
from agentcgroup.enforcement.verdict import verdict
from agentcgroup.errors import LimitExceeded, Unshippable
from agentcgroup.monitor.client import HURRY, PATIENCE
from agentcgroup.records.record import CallRecord, Outcome
from agentcgroup.scope import current, restore

__all__ = ["Answer", "aenter", "aleave", "arun", "astream", "enter", "leave", "open_call", "run"]

logger = logging.getLogger("agentcgroup")

T = TypeVar("T")

#: Seconds in which processes of a tool that has ended may end by themselves before they count as
#: leftovers: a pipeline's last member or a server told to stop is on its way out.
_LINGER: Final = 0.05


class Answer(Protocol):
    """Makes what the model is given, in the framework's own form, for a call that met a limit."""

    def __call__(self, record: CallRecord, result: Any, error: Exception | None) -> Any:
        """Return the answer that takes the place of `result` or `error`.

        May raise `error`, or LimitExceeded where the framework wants an exception.
        """


# -- the steps ---------------------------------------------------------------------


def open_call(
    services: Services,
    framework: str,
    agent: str | None,
    tool: str,
    tool_call_id: str | None = None,
    *,
    key: object = None,
    overrides: Mapping[str, Any] | None = None,
) -> Call:
    """Open a call; `run`, `arun`, `astream`, or `enter` and `leave` do the rest.

    Args:
        services: those of the active session.
        framework: the adapter's name.
        agent: the agent's name, None when the framework gives none.
        tool: the tool's name.
        tool_call_id: the model's id of the call.
        key: the tool object; an adapter recognises a framework's re-entry into the call by it.
        overrides: limits given in code, which win over the configuration.

    Raises:
        ConfigError: a limit in `overrides` is unknown or wrong.
    """
    if agent is None:
        named = scope.agent.get()
        if named is not None:
            agent = named.name
    policy = services.resolver.call(framework, agent, tool, **(overrides or {}))
    parent = current.get()
    if not isinstance(parent, Call) or parent.services is not services:
        parent = None
    call = Call(
        services,
        next(services.numbers),
        policy,
        parent,
        framework,
        agent,
        tool,
        tool_call_id,
        key,
    )
    monitor = services.monitor
    if monitor.state != "off":
        monitor.start()
        call.note_slot(monitor.occupy(call))
    group = scope.call_group.get()
    if group is not None:
        group.append(call)
    return call


def enter(call: Call) -> Token[Any]:
    """Begin a call and make it current; the token goes to `leave`."""
    call.begin()
    return current.set(call if call.services.working else None)


def leave(
    call: Call, token: Token[Any], error: BaseException | None = None, used: Used | None = None
) -> bool:
    """End a sync call, whose body raised `error` or returned; return whether its end is told."""
    restore(current, token)
    return finish(call, error, used=used)


def aenter(call: Call) -> tuple[Token[Any], Expiry | None]:
    """Begin an async call: as `enter`, and its deadline cancels the current task."""
    expiry = Expiry.of(call)
    return enter(call), expiry


async def aleave(
    call: Call,
    entered: tuple[Token[Any], Expiry | None],
    error: BaseException | None = None,
) -> bool:
    """End an async call; return whether `error` is the cancellation by its own deadline."""
    token, expiry = entered
    restore(current, token)
    return await _afinish(call, expiry, error)


# -- what runs a body ---------------------------------------------------------------------


def run(call: Call, answer: Answer, body: Callable[[], Any]) -> Any:
    """Run a sync body as `call`; return its result, or the answer where a limit was met."""
    token = enter(call)
    begin = inline_usage.read()
    try:
        result = body()
    except BaseException as error:
        leave(call, token, error, inline_usage.since(begin))
        if (call.limited or call.refused) and isinstance(error, Exception):
            return _answered(call, answer, None, error)
        raise
    if leave(call, token, None, inline_usage.since(begin)):
        return _answered(call, answer, result, None)
    return result


async def arun(call: Call, answer: Answer, body: Callable[[], Awaitable[Any]]) -> Any:
    """Run an async body as `call`; as `run`, and a timeout also ends a body that only waits."""
    entered = aenter(call)
    try:
        result = await body()
    except BaseException as error:
        expired = await aleave(call, entered, error)
        if (call.limited or call.refused) and isinstance(error, Exception):
            return _answered(call, answer, None, error)
        if expired:
            return _answered(call, answer, None, TimeoutError())
        raise
    await aleave(call, entered)
    if call.told:
        return _answered(call, answer, result, None)
    return result


async def astream(
    call: Call, body: Callable[[], AsyncGenerator[T, None]]
) -> AsyncGenerator[T, None]:
    """Run an async generator as `call`; what it has yielded cannot be taken back.

    Raises:
        LimitExceeded: a limit ended the call.
    """
    stream = body()
    call.begin()
    expiry: Expiry | None = None
    error: BaseException | None = None
    try:
        while True:
            expiry = Expiry.of(call)  # of this step: between two steps the task is the consumer's
            item = await step(stream.__anext__, current, call)
            if expiry is not None:
                expiry.end()
            yield item
    except StopAsyncIteration:
        pass
    except BaseException as caught:
        error = caught
        await step(stream.aclose, current, call)
    expired = await _afinish(call, expiry, error)
    if error is None:
        return
    if call.limited and (isinstance(error, Exception) or expired):
        told = feedback.attach(feedback.partial_output(error), call.record)
        raise LimitExceeded(told, record=call.record) from error
    raise error


def _answered(call: Call, answer: Answer, result: Any, error: Exception | None) -> Any:
    try:
        return answer(call.record, result, error)
    except Exception as fault:
        if fault is error or isinstance(fault, LimitExceeded):
            raise
        # The fault is the adapter's: the caller gets what the tool itself returned or raised.
        logger.exception("agentcgroup: the answer for call %s could not be made", call.id)
    if error is not None:
        raise error
    return result


# -- how a call ends ---------------------------------------------------------------------


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
    call.end(used, cancelled=cancelled)
    if contained is None:
        if call.stopped is None:
            _set_outcome(call, "ok" if error is None else "error", None)
            told = call.refused
        else:
            told = _judge(call, None, error, cancelled)
        call.settle()
        services.settled(call)
        return told
    told = _judge(call, contained, error, cancelled)
    if told:
        _settle(call, contained, HURRY)
        services.deferred.put(contained.remove)
    else:
        assert call.ended is not None
        services.deferred.put(
            lambda: _settle_and_remove(call, contained), call.ended - call.started
        )
    return told


async def _afinish(call: Call, expiry: Expiry | None, error: BaseException | None) -> bool:
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
    call.services.settled(call)


def _settle_and_remove(call: Call, contained: ContainedCall) -> None:
    try:
        _settle(call, contained, PATIENCE)
    finally:
        contained.remove()
