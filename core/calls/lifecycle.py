"""The life of a call, step by step: the one door for adapters, `call`, `isolate` and `exec`.

::

    resolve    open_call   the policy of this framework, agent and tool
    admit      enter       the call begins
    enter      enter       the call is current: children are born in its cgroup
    run        run, arun, astream, or a block of code
    leave      leave       the call is no longer current; its processes end
    judge      ending      outcome and reason, from the kernel's counters
    settle     ending      usage is read, the record is handed over, the cgroup is removed
    answer     _answered   a limit's sentence, in the framework's form

A step that every call has to go through is added here, and in no adapter.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextvars import Token
from typing import Any, Protocol, TypeVar

from agentcgroup import off_loop, scope
from agentcgroup.calls import feedback, inline_usage
from agentcgroup.calls.abandoned import abandon
from agentcgroup.calls.call import Call
from agentcgroup.calls.cancellation import Expiry, step
from agentcgroup.calls.ending import afinish, finish, rescue
from agentcgroup.calls.inline_usage import Used
from agentcgroup.calls.services import Services
from agentcgroup.calls.succession import is_helper
from agentcgroup.errors import LimitExceeded
from agentcgroup.records.record import CallRecord
from agentcgroup.scope import current, restore

__all__ = [
    "Answer",
    "aenter",
    "aleave",
    "arun",
    "astream",
    "enter",
    "leave",
    "open_call",
    "run",
    "until_watched",
]

logger = logging.getLogger("agentcgroup")

T = TypeVar("T")


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
    resolve = services.resolver.call
    if overrides:
        policy = resolve(framework, agent, tool, **overrides)
    else:  # to pass on no keyword takes 0.1 us
        policy = resolve(framework, agent, tool)
    parent = current.get()
    if not isinstance(parent, Call) or parent.services is not services:
        parent = None
    group = scope.call_group.get()
    if parent is not None and parent.ended is not None and is_helper(parent):
        parent = parent.around_now()
        if group is not None and group.cancelled:
            group = None  # it was of the ended call; what serves later calls has outlived it too
    call = Call(
        services,
        policy,
        parent,
        framework,
        agent,
        tool,
        tool_call_id,
        key,
    )
    if services.monitor.state != "off":
        _show(call)
    if group is not None:
        group.append(call)
    return call


def _show(call: Call) -> None:
    """Show a call to the monitor; one that is demanded is waited for, except on an event loop."""
    monitor = call.services.monitor
    monitor.start()
    if monitor.awaited and asyncio._get_running_loop() is None:
        monitor.await_ready()
        call.restart_clock()
    call.note_slot(monitor.occupy(call))


async def until_watched(call: Call) -> None:
    """Wait for a monitor that is demanded, before an async call begins; the event loop runs on."""
    monitor = call.services.monitor
    try:
        await off_loop.run(monitor.await_ready)
    except BaseException as error:
        finish(call, error, cancelled=True)
        raise
    call.restart_clock()
    call.note_slot(monitor.occupy(call))


def enter(call: Call) -> Token[Any]:
    """Begin a call and make it current; the token goes to `leave`."""
    try:
        call.begin()
        return current.set(call if call.services.working else None)
    except BaseException as error:
        abandon(call, error)
        raise


def leave(
    call: Call, token: Token[Any], error: BaseException | None = None, used: Used | None = None
) -> bool:
    """End a sync call, whose body raised `error` or returned; return whether its end is told."""
    try:
        restore(current, token)
        return finish(call, error, used=used)
    except BaseException as interrupt:
        call.services.deferred.hand_over((rescue, call, interrupt))
        raise


def aenter(call: Call) -> tuple[Token[Any], Expiry | None]:
    """Begin an async call: as `enter`, and its deadline cancels the current task."""
    try:
        expiry = Expiry.of(call)
        return enter(call), expiry
    except BaseException as error:
        abandon(call, error)
        raise


async def aleave(
    call: Call,
    entered: tuple[Token[Any], Expiry | None],
    error: BaseException | None = None,
) -> bool:
    """End an async call; return whether `error` is the cancellation by its own deadline."""
    try:
        token, expiry = entered
        restore(current, token)
        return await afinish(call, expiry, error)
    except BaseException as interrupt:
        call.services.deferred.hand_over((rescue, call, interrupt))
        raise


# -- what runs a body ---------------------------------------------------------------------


def run(call: Call, answer: Answer, body: Callable[[], Any]) -> Any:
    """Run a sync body as `call`; return its result, or the answer where a limit was met."""
    # `enter` and `leave` in place: each function of Python is 0.1 % of an inline call by LangChain.
    token = begin = None
    try:  # from the first line to the last: a signal handler may raise between any two
        call.begin()
        token = current.set(call)
        begin = inline_usage.read()
        result = body()
        used = inline_usage.since(begin)
        current.reset(token)
        told = finish(call, used=used)
    except BaseException as error:
        try:
            _raised(call, token, begin, error)
        except BaseException:
            call.services.deferred.hand_over((rescue, call, error))
            if current.get() is call:
                current.set(call.parent)
            raise
        if (call.limited or call.refused) and isinstance(error, Exception):
            return _answered(call, answer, None, error)
        raise
    if told:
        return _answered(call, answer, result, None)
    return result


def _raised(call: Call, token: Token[Any] | None, begin: Used | None, error: BaseException) -> None:
    """End a call in which `error` was raised; raise it where that was while the call ended."""
    used = None if begin is None else inline_usage.since(begin)
    if token is not None:
        restore(current, token)
    elif current.get() is call:
        current.set(call.parent)
    if call.ended is not None:
        raise error
    finish(call, error, used=used)


async def arun(call: Call, answer: Answer, body: Callable[[], Awaitable[Any]]) -> Any:
    """Run an async body as `call`; as `run`, and a timeout also ends a body that only waits."""
    entered, leaving = None, False
    if call.services.monitor.awaited:
        await until_watched(call)
    try:
        entered = aenter(call)
        result = await body()
        leaving = True
        await aleave(call, entered)
    except BaseException as error:
        if entered is None or leaving:  # not raised by the body
            abandon(call, error)
            raise
        try:
            expired = await aleave(call, entered, error)
        except BaseException:
            call.services.deferred.hand_over((rescue, call, error))
            if current.get() is call:
                current.set(call.parent)
            raise
        if (call.limited or call.refused) and isinstance(error, Exception):
            return _answered(call, answer, None, error)
        if expired:
            return _answered(call, answer, None, TimeoutError())
        raise
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
    if call.services.monitor.awaited:
        await until_watched(call)
    stream = body()
    expiry: Expiry | None = None
    error: BaseException | None = None
    try:
        try:
            call.begin()
            while True:
                expiry = Expiry.of(call)  # of this step: between two the task is the consumer's
                item = await step(stream.__anext__, current, call)
                if expiry is not None:
                    expiry.end()
                yield item
        except StopAsyncIteration:
            pass
        except BaseException as caught:
            error = caught
            await step(stream.aclose, current, call)
        expired = await afinish(call, expiry, error)
    except BaseException as interrupt:
        call.services.deferred.hand_over((rescue, call, interrupt))
        raise
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
