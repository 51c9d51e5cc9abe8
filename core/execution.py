"""Where a tool's body runs, and what becomes of its result or its exception.

`run` and `arun` are what every adapter's seam calls: body in, result out, with the call current
meanwhile. The adapter's `Answer` is asked only when a limit has something to say.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from agentcgroup.calls import LINGER, Call
from agentcgroup.records import CallRecord
from agentcgroup.scope import Started, current, started

__all__ = ["Answer", "Expiry", "afinish", "arun", "bounded", "cancelling", "run"]

logger = logging.getLogger("agentcgroup")

T = TypeVar("T")

#: Seconds an async tool has to return by itself (with what it has) once its processes are killed.
_GRACE = 1.0


class Answer(Protocol):
    """What the model is given, in the framework's own way, for a call that met a limit."""

    def __call__(self, record: CallRecord, result: Any, error: Exception | None) -> Any:
        """Return the answer that takes the place of `result` or `error`; may raise `error`."""


def run(call: Call, answer: Answer, body: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run a sync body as `call`; returns its result, or the answer when a limit spoke."""
    token = current.set(call)
    try:
        result = body(*args, **kwargs)
    except BaseException as error:
        current.reset(token)
        call.finish(error)
        if call.limited and isinstance(error, Exception):
            return _answered(call, answer, None, error)
        raise
    current.reset(token)
    if call.finish():
        return _answered(call, answer, result, None)
    return result


async def arun(
    call: Call, answer: Answer, body: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any
) -> Any:
    """Run an async body as `call`; as `run`, and a timeout also ends a body that only waits."""
    expiry = Expiry.of(call)
    token = current.set(call)
    try:
        result = await body(*args, **kwargs)
    except BaseException as error:
        current.reset(token)
        expired = await afinish(call, expiry, error)
        if call.limited and isinstance(error, Exception):
            return _answered(call, answer, None, error)
        if expired:
            return _answered(call, answer, None, TimeoutError())
        raise
    current.reset(token)
    await afinish(call, expiry, None)
    if call.told:
        return _answered(call, answer, result, None)
    return result


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
    cancelled = isinstance(error, asyncio.CancelledError)
    if not cancelled:
        await _linger(call)
    call.finish(error, cancelled=cancelled and not expired)
    return cancelled and expired


async def cancelling(body: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
    """Await a body that runs its tool in a thread: when it is cancelled, the call in there ends.

    A thread cannot be cancelled, but once the processes it waits for are gone it returns.
    """
    calls = _Started(started.get())
    token = started.set(calls)
    try:
        return await body(*args, **kwargs)
    except asyncio.CancelledError:
        calls.cancel()
        raise
    finally:
        started.reset(token)


def _answered(call: Call, answer: Answer, result: Any, error: Exception | None) -> Any:
    try:
        return answer(call.record, result, error)
    except Exception as fault:
        if fault is error:
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
        """Return the expiry of `call`; None when it has no limit in time."""
        timeout = call.policy.timeout
        if timeout is None or not call.session.limiting:
            return None
        return cls(call, timeout)

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


class _Started:
    """The calls started from one place and not over yet, those from places inside it too."""

    __slots__ = ("_above", "_calls", "_cancelled", "_lock")

    def __init__(self, above: Started | None) -> None:
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
        with self._lock:
            self._cancelled = True
            calls = tuple(self._calls)
        for call in calls:
            call.stop("cancelled")
