"""A tool's body in a worker process: ``isolation = "process"``.

`run` and `arun` send a function to a worker in the call's cgroup and wait for what comes of it: the
sync one by blocking its own thread and no other, the async one on its event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from agentcgroup import isolation
from agentcgroup.calls.call import Call
from agentcgroup.errors import Unshippable, WorkerDied
from agentcgroup.isolation import environment, pickling
from agentcgroup.isolation.channel import INLINE, Channel, Message, Offer
from agentcgroup.isolation.launcher import Worker
from agentcgroup.isolation.worker import BAGGAGE, CALL, FAILURE, LAST_CALL, RESULT, UNSHIPPABLE

__all__ = ["arun", "run"]

#: Seconds in which the end of a worker is told by the process that made it, which may be at an
#: import that takes long.
_TOLD_WITHIN: Final = 30.0


def run(
    call: Call, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Run `function` in a worker process in the cgroup of `call`.

    Returns what it returns and raises what it raises, with the worker's traceback as the cause.
    State that it changes in its closure, in its instance or in a module is lost.

    Raises:
        Unshippable: the function, an argument or the result cannot be pickled.
        WorkerDied: the worker ended before the body did; the call's record says of what.
        LimitExceeded: the call is over already.
        CgroupUnavailable: no worker can be made.
    """
    if isolation.inside():
        return function(*args, **kwargs)
    visit = _Visit(call, function, args, kwargs, is_async=False)
    visit.begin()
    try:
        visit.send()
        visit.sent()
        while True:
            message = visit.worker.channel.receive()
            if message is None:
                visit.worker.ended.wait(_TOLD_WITHIN)
                raise visit.died()
            if visit.is_answer(message):
                return visit.answer(message)
    except BaseException:
        visit.abandon()
        raise


async def arun(
    call: Call,
    function: Callable[..., Awaitable[Any]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """As `run` for a coroutine function: the worker runs it in a fresh event loop.

    A cancellation of the await ends the worker.
    """
    if isolation.inside():
        return await function(*args, **kwargs)
    visit = _Visit(call, function, args, kwargs, is_async=True)
    visit.begin()
    try:
        if visit.size() > INLINE:  # waits until the worker has it
            await asyncio.to_thread(visit.send)
        else:
            visit.send()
        visit.sent()
        message = await _answer_of(visit)
        if message is None:
            await _told(visit.worker)
            raise visit.died()
        return visit.answer(message)
    except BaseException:
        visit.abandon()
        raise


class _Visit:
    """One body on its way to a worker and back."""

    __slots__ = ("_baggage", "_call", "_parcel", "worker")

    worker: Worker

    def __init__(
        self,
        call: Call,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        is_async: bool,
    ) -> None:
        try:
            self._parcel = pickling.pack_call(function, args, kwargs, is_async=is_async)
        except Exception as error:
            raise pickling.blame(error, function, args, kwargs) from error
        self._call = call

    def size(self) -> int:
        """Return how many bytes are to be sent."""
        return pickling.weight(self._parcel)

    def begin(self) -> None:
        """Take a worker."""
        self.worker = self._call.worker()
        self._call.note_isolated("process")
        self.worker.done = False
        self._baggage = self.worker.surroundings.baggage(self.worker.worn)
        self.worker.worn = self._baggage

    def send(self) -> None:
        """Send it the body; one that has gone meanwhile is found out by its silence."""
        channel = self.worker.channel
        try:
            if self._baggage:
                channel.send(BAGGAGE, *pickling.pack(self._baggage))
            channel.send(CALL if self.worker.stays else LAST_CALL, *self._parcel)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def sent(self) -> None:
        """Use the time in which the body runs."""
        self._call.restock()

    def is_answer(self, message: Message) -> bool:
        """Say whether this is the last word; what the body prints and logs is passed on."""
        if message.kind in (RESULT, FAILURE, UNSHIPPABLE):
            return True
        try:
            said = environment.relay(message)
        except Exception as error:  # of a handler, say, or a stream that is closed
            self._call.warn(
                f"what tool {self._call.tool!r} prints or logs cannot be shown: {error!r}"
            )
            return False
        if not said:
            self._call.learn(message)  # told behind the last call
        return False

    def answer(self, message: Message) -> Any:
        """Return the result, or raise what the body raised."""
        if self.worker.pid is None:  # an answer may overtake the news of its sender's birth
            self.worker.born.wait(_TOLD_WITHIN)
        self.worker.done = True
        if message.kind == RESULT:
            try:
                return pickling.unpack(message.pickle, buffers=message.buffers)
            except Exception as error:  # many that pickle do not come back
                why = f"it does not unpickle: {type(error).__name__}: {error}"
                raise Unshippable("the result", "an object", why, ran=True) from error
        raise environment.revived(message.pickle)

    def died(self) -> WorkerDied:
        """Return the exception for a worker that has ended without an answer."""
        how = self.worker.how or "ended"
        self._call.note_worker_died(how)
        return WorkerDied(how)

    def abandon(self) -> None:
        """End the worker when nobody waits for its answer any more."""
        if not self.worker.done:
            self.worker.done = True
            self._call.kill_worker()


async def _answer_of(visit: _Visit) -> Message | None:
    """Return the answer; None when there will be none."""
    channel = visit.worker.channel
    while True:
        found = await _glimpse(channel)
        if isinstance(found, Offer):  # large; copied where it holds up no loop
            found = await asyncio.to_thread(channel.take, found)
            if found is None:
                continue
        if found is None or visit.is_answer(found):
            return found


async def _glimpse(channel: Channel) -> Message | Offer | None:
    """Return what comes next."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return channel.glance()
        except BlockingIOError:
            pass
        readable: asyncio.Future[None] = loop.create_future()
        loop.add_reader(channel.fileno(), _wake, readable)
        try:
            await readable
        finally:
            loop.remove_reader(channel.fileno())


def _wake(readable: asyncio.Future[None]) -> None:
    if not readable.done():
        readable.set_result(None)


async def _told(worker: Worker) -> None:
    deadline = time.monotonic() + _TOLD_WITHIN
    while not worker.ended.is_set() and time.monotonic() < deadline:
        await asyncio.sleep(0.002)
