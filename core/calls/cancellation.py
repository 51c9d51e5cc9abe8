"""Cancellation: a deadline that ends the task awaiting a body, and a task whose calls end with it.

The deadline itself is kept by `enforcement.deadlines`, for sync and async calls alike: its thread
stops the call, which kills the processes even while the event loop is blocked. `Expiry` then
cancels the task, since a body may wait for something that is no process.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, TypeVar

from agentcgroup import off_loop
from agentcgroup.scope import CallGroup, call_group, restore
from agentcgroup.threads import Lock

if TYPE_CHECKING:
    from agentcgroup.calls.call import Call

__all__ = ["GIVEN_UP", "Expiry", "bounded", "cancelling", "cancelling_stream", "step"]

T = TypeVar("T")

#: Seconds that an async tool has to return by itself, with what it has, once its processes are
#: killed.
_GRACE: Final = 1.0

#: How a framework gives up an async body: its task is cancelled, or its generator is closed.
GIVEN_UP: Final = (asyncio.CancelledError, GeneratorExit)


def _no_task() -> None:
    """Return that no task awaits the body."""


class Expiry:
    """Cancels the current task when the deadline of its call has passed.

    Follows `asyncio.timeout` in distinguishing its own cancellation from that by others.
    """

    __slots__ = ("_before", "_call", "_cancelled", "_handle", "_loop", "_outer", "_over", "_task")

    def __init__(self, call: Call) -> None:
        """Have `Call.stop` notify this expiry from now on."""
        self._call = call
        # Weak: an exception of the task holds the frames that have to end the call.
        self._task: Callable[[], asyncio.Task[Any] | None] = _no_task
        if (task := asyncio.current_task()) is not None:
            self._task = weakref.ref(task)
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.Handle | None = None
        self._cancelled = False
        self._over = False
        self._before = self._count("cancelling")
        self._outer = call.expiry
        call.note_expiry(self)
        if call.stopped == "timeout":  # between two steps of a generator
            self._handle = self._loop.call_soon(self._expire)

    @classmethod
    def of(cls, call: Call) -> Expiry | None:
        """Return the expiry of `call` from now on; None when it has no deadline.

        Nor has it one in trio or curio, where its deadline ends what the call has started.
        """
        return None if call.deadline is None or not off_loop.has_loop() else cls(call)

    def end(self) -> bool:
        """Take the expiry back; return whether it, and nothing else, has cancelled the task."""
        self._over = True
        self._call.note_expiry(self._outer)
        if self._handle is not None:
            self._handle.cancel()
        if not self._cancelled or self._task() is None:
            return False
        return self._count("uncancel") <= self._before

    def notify(self) -> None:
        """Have the task cancelled; called on any thread, when the call was stopped."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and its tasks with it
            self._loop.call_soon_threadsafe(self._expire)
        if self._outer is not None:
            self._outer.notify()

    def _count(self, method: str) -> int:
        """Ask the task; before Python 3.11 no task counts: each cancellation is taken as ours."""
        count = getattr(self._task(), method, None)
        return 0 if count is None else int(count())

    def _expire(self) -> None:
        if self._over:
            return
        if self._call.contained is not None:
            self._handle = self._loop.call_later(_GRACE, self._cancel)
        else:
            self._cancel()

    def _cancel(self) -> None:
        task = self._task()
        if task is not None and not task.done():
            self._cancelled = True
            task.cancel()


async def bounded(call: Call, body: Awaitable[T]) -> T:
    """Await `body` in an event loop that sync code of `call` runs, up to the call's deadline.

    Raises:
        TimeoutError: the deadline has passed.
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


async def cancelling(body: Callable[[], Awaitable[T]]) -> T:
    """Await a body that runs its tool in a thread; its cancellation stops the tool's call.

    A thread cannot be cancelled, but it returns once the processes that it waits for are gone.
    """
    calls = _CallGroup(call_group.get())
    try:
        return await step(body, call_group, calls)
    except asyncio.CancelledError:
        await calls.cancel()
        raise


async def cancelling_stream(
    body: Callable[[], AsyncGenerator[T, None]],
) -> AsyncGenerator[T, None]:
    """Iterate a body that runs its tools in tasks of their own, and stop these calls with it.

    As `cancelling`, for an async generator.
    """
    calls = _CallGroup(call_group.get())
    stream = body()
    try:
        while True:
            yield await step(stream.__anext__, call_group, calls)
    except StopAsyncIteration:
        return
    except GIVEN_UP as error:
        if isinstance(error, GeneratorExit):
            await calls.stop()  # the consumer has the items it wanted: later calls may run
        else:
            await calls.cancel()
        await step(stream.aclose, call_group, calls)
        raise


async def step(run: Callable[[], Awaitable[T]], variable: ContextVar[Any], value: object) -> T:
    """Take one step of an async generator with `variable` set.

    Never across a yield: the value would leak to the consumer, and a generator that is closed from
    another context could not reset it.
    """
    before, token = variable.get(), None
    try:
        token = variable.set(value)
        return await run()
    finally:
        if token is not None:
            restore(variable, token)
        elif variable.get() is value:  # a signal handler raised between the two
            variable.set(before)


class _CallGroup:
    """The running calls that were started from one place, those from places inside it included."""

    __slots__ = ("_above", "_calls", "_cancelled", "_lock")

    def __init__(self, above: CallGroup | None) -> None:
        self._above = above
        self._lock = Lock()
        self._calls: list[Call] = []
        self._cancelled = False

    @property
    def cancelled(self) -> bool:
        """Whether this place, or one around it, was cancelled."""
        return self._cancelled or (self._above is not None and self._above.cancelled)

    def append(self, call: Call) -> None:
        """Add a call that was just opened."""
        with self._lock:
            self._calls = [one for one in self._calls if one.ended is None]
            self._calls.append(call)
            cancelled = self._cancelled
        if self._above is not None:
            self._above.append(call)
        if cancelled:  # a thread goes on with a body that no task awaits any more
            call.stop("cancelled")

    async def cancel(self) -> None:
        """Stop the calls that run and those that are opened later."""
        with self._lock:
            self._cancelled = True
        await self.stop()

    async def stop(self) -> None:
        """Stop the calls that run."""
        with self._lock:
            calls = [call for call in self._calls if call.ended is None]

        def stop() -> None:
            for call in calls:
                call.stop("cancelled")

        if calls:
            await off_loop.run_to_end(stop)
