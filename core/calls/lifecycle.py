"""Where a tool's body runs, and what becomes of its result or its exception.

`run` and `arun` are what every adapter's seam calls: body in, result out, with the call current
meanwhile. The adapter's `Answer` is asked only when a limit has something to say.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

from agentcgroup.calls import feedback, inline_usage
from agentcgroup.calls.call import LINGER, Call
from agentcgroup.errors import LimitExceeded
from agentcgroup.records.record import CallRecord
from agentcgroup.scope import CallGroup, call_group, current, restore

__all__ = [
    "Answer",
    "Expiry",
    "afinish",
    "arun",
    "astream",
    "bounded",
    "cancelling",
    "cancelling_stream",
    "run",
]

logger = logging.getLogger("agentcgroup")

T = TypeVar("T")

#: Seconds an async tool has to return by itself (with what it has) once its processes are killed.
_GRACE = 1.0

#: How a framework gives up an async body: its task is cancelled, or its generator closed.
_GIVEN_UP = (asyncio.CancelledError, GeneratorExit)


class Answer(Protocol):
    """What the model is given, in the framework's own way, for a call that met a limit."""

    def __call__(self, record: CallRecord, result: Any, error: Exception | None) -> Any:
        """Return the answer that takes the place of `result` or `error`.

        May raise `error`, or LimitExceeded where the framework wants an exception.
        """


def run(call: Call, answer: Answer, body: Callable[[], Any]) -> Any:
    """Run a sync body as `call`; returns its result, or the answer when a limit spoke."""
    token = current.set(call)
    begin = inline_usage.read()
    try:
        result = body()
    except BaseException as error:
        call.used = inline_usage.since(begin)
        current.reset(token)
        call.finish(error)
        if (call.limited or call.refused) and isinstance(error, Exception):
            return _answered(call, answer, None, error)
        raise
    call.used = inline_usage.since(begin)
    current.reset(token)
    if call.finish():
        return _answered(call, answer, result, None)
    return result


async def arun(call: Call, answer: Answer, body: Callable[[], Awaitable[Any]]) -> Any:
    """Run an async body as `call`; as `run`, and a timeout also ends a body that only waits."""
    expiry = Expiry.of(call)
    token = current.set(call)
    try:
        result = await body()
    except BaseException as error:
        restore(current, token)
        expired = await afinish(call, expiry, error)
        if (call.limited or call.refused) and isinstance(error, Exception):
            return _answered(call, answer, None, error)
        if expired:
            return _answered(call, answer, None, TimeoutError())
        raise
    restore(current, token)
    await afinish(call, expiry, None)
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
    expiry: Expiry | None = None
    error: BaseException | None = None
    try:
        while True:
            expiry = Expiry.of(call)  # of this step: between two the task is the consumer's
            item = await _step(stream.__anext__, current, call)
            if expiry is not None:
                expiry.end()
            yield item
    except StopAsyncIteration:
        pass
    except BaseException as caught:
        error = caught
        await _step(stream.aclose, current, call)
    expired = await afinish(call, expiry, error)
    if error is None:
        return
    if call.limited and (isinstance(error, Exception) or expired):
        told = feedback.attach(feedback.partial_output(error), call.record)
        raise LimitExceeded(told, record=call.record) from error
    raise error


async def bounded(call: Call, body: Awaitable[T]) -> T:
    """Await `body` in an event loop that sync code of `call` runs: it ends with the call's time.

    Raises:
        TimeoutError: the time was over.
    """
    expiry = Expiry.of(call)
    if expiry is None:
        return await body
    try:
        result = await body
    except BaseException as error:
        if expiry.end() and isinstance(error, asyncio.CancelledError):
            raise TimeoutError("the call's time is over") from error
        raise
    expiry.end()
    return result


async def afinish(call: Call, expiry: Expiry | None, error: BaseException | None) -> bool:
    """End an async call; True when `error` is the cancellation by which its own expiry ended it."""
    expired = expiry is not None and expiry.end()
    cancelled = isinstance(error, _GIVEN_UP)
    if not cancelled:
        try:
            await _linger(call)
        except BaseException:  # cancelled after the body had ended
            call.finish(error, cancelled=True)
            raise
    call.finish(error, cancelled=cancelled and not expired)
    return cancelled and expired


async def cancelling(body: Callable[[], Awaitable[T]]) -> T:
    """Await a body that runs its tool in a thread: when it is cancelled, the call in there ends.

    A thread cannot be cancelled, but once the processes it waits for are gone it returns.
    """
    calls = _CallGroup(call_group.get())
    token = call_group.set(calls)
    try:
        return await body()
    except asyncio.CancelledError:
        calls.cancel()
        raise
    finally:
        restore(call_group, token)


async def cancelling_stream(
    body: Callable[[], AsyncGenerator[T, None]],
) -> AsyncGenerator[T, None]:
    """Iterate a body that runs its tools in tasks of their own: given up, the calls in there end.

    As `cancelling`, for an async generator.
    """
    calls = _CallGroup(call_group.get())
    stream = body()
    try:
        while True:
            yield await _step(stream.__anext__, call_group, calls)
    except StopAsyncIteration:
        return
    except _GIVEN_UP as error:
        if isinstance(error, GeneratorExit):
            calls.stop()  # closed by whoever has what he wants: what he started may go on
        else:
            calls.cancel()
        await _step(stream.aclose, call_group, calls)
        raise


async def _step(step: Callable[[], Awaitable[T]], variable: ContextVar[Any], value: object) -> T:
    """Take one step of an async generator with `variable` set.

    Never across a yield: there the value would leak to the consumer, and a generator that is
    closed from another context could not take it back.
    """
    token = variable.set(value)
    try:
        return await step()
    finally:
        restore(variable, token)


def _answered(call: Call, answer: Answer, result: Any, error: Exception | None) -> Any:
    try:
        return answer(call.record, result, error)
    except Exception as fault:
        if fault is error or isinstance(fault, LimitExceeded):
            raise
        # Ours is the fault, not the tool's: it gets what it would have got without us.
        logger.exception("agentcgroup: the answer for call %s could not be made", call.id)
    if error is not None:
        raise error
    return result


async def _linger(call: Call) -> None:
    """Give processes on their way out their time without holding up the event loop."""
    waited = 0.0
    while (
        waited < LINGER
        and call.stopped is None
        and call.enclosure is not None
        and call.enclosure.populated()
    ):
        await asyncio.sleep(0.005)
        waited += 0.005


class Expiry:
    """The end of an async call's time, on its own event loop: its task is cancelled.

    The watcher kills processes from its thread even while the loop is blocked; this one ends a
    body that waits for something else. Follows `asyncio.timeout` in telling our cancellation from
    somebody else's.
    """

    __slots__ = ("_before", "_call", "_cancelled", "_handle", "_loop", "_task")

    def __init__(self, call: Call, timeout: float) -> None:
        self._call = call
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        self._handle = self._loop.call_later(timeout, self._expire)
        self._cancelled = False
        self._before = self._count("cancelling")

    @classmethod
    def of(cls, call: Call) -> Expiry | None:
        """Return the expiry of `call` from now on; None when it has no limit in time."""
        timeout = call.policy.timeout
        if timeout is None or not call.session.limiting:
            return None
        return cls(call, call.started + timeout - time.monotonic())

    def end(self) -> bool:
        """Take the expiry back; True when it has cancelled the task and nobody else has."""
        self._handle.cancel()
        if not self._cancelled or self._task is None:
            return False
        return self._count("uncancel") <= self._before

    def _count(self, method: str) -> int:
        """Ask the task; before Python 3.11 it counts nothing and ours is taken for the only one."""
        count = getattr(self._task, method, None)
        return 0 if count is None else int(count())

    def _expire(self) -> None:
        self._call.stop("timeout")
        if self._call.enclosure is not None:
            self._handle = self._loop.call_later(_GRACE, self._cancel)
        else:
            self._cancel()

    def _cancel(self) -> None:
        if self._task is not None and not self._task.done():
            self._cancelled = True
            self._task.cancel()


class _CallGroup:
    """The calls started from one place and not over yet, those from places inside it too."""

    __slots__ = ("_above", "_calls", "_cancelled", "_lock")

    def __init__(self, above: CallGroup | None) -> None:
        self._above = above
        self._lock = threading.Lock()
        self._calls: list[Call] = []
        self._cancelled = False

    def append(self, call: Call) -> None:
        with self._lock:
            self._calls = [one for one in self._calls if one.ended is None]
            self._calls.append(call)
            cancelled = self._cancelled
        if self._above is not None:
            self._above.append(call)
        if cancelled:  # a thread goes on with what nobody waits for any more
            call.stop("cancelled")

    def cancel(self) -> None:
        """Stop what runs and what starts later."""
        with self._lock:
            self._cancelled = True
        self.stop()

    def stop(self) -> None:
        """Stop what runs."""
        with self._lock:
            calls = tuple(self._calls)
        for call in calls:
            call.stop("cancelled")
