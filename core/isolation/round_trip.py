"""One body on its way to a worker and back.

`run` and `arun` send a function to a worker in the call's cgroup and wait for its answer: `run`
blocks the thread that calls it, `arun` waits on its event loop.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from agentcgroup import isolation, off_loop
from agentcgroup.errors import Unshippable, WorkerDied
from agentcgroup.isolation import failures, output, pickling, unpicklable
from agentcgroup.isolation.channel import Channel
from agentcgroup.isolation.host import IsolatedCall
from agentcgroup.isolation.messages import MESSAGE_MAX, Malformed, Message, Offer
from agentcgroup.isolation.protocol import (
    CALL,
    ENVIRONMENT,
    FAILURE,
    IMPORTED,
    IMPORTING,
    LAST_CALL,
    RESULT,
    UNSHIPPABLE,
)
from agentcgroup.isolation.worker_handle import Worker
from agentcgroup.threads import Event

__all__ = ["arun", "run"]

#: Seconds to wait for the fork server's report on a worker; it may be importing a large module.
_REPORT_WAIT: Final = 30.0


def run(
    call: IsolatedCall, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Run `function` in a worker in the cgroup of `call`.

    Returns what the function returns and raises what it raises, with the worker's traceback as the
    cause. What it changes in its closure, in its instance or in a module is lost.

    Raises:
        Unshippable: the function, an argument or the result cannot be pickled.
        WorkerDied: the worker ended before the function did; the call's record has the reason.
        LimitExceeded: the call was stopped, or its time is over.
        CgroupUnavailable: no worker can be made.
    """
    if isolation.inside():
        return function(*args, **kwargs)
    trip = _RoundTrip(call, function, args, kwargs, is_async=False)
    try:
        trip.take_worker()
        trip.worker.channel.set_blocking(True)
        trip.send()
        call.restock()  # while the body runs
        while True:
            message = trip.worker.channel.receive()
            if message is None:
                trip.worker.ended.wait(_REPORT_WAIT)
                raise trip.died()
            if trip.is_answer(message):
                if trip.worker.pid is None:
                    trip.worker.born.wait(_REPORT_WAIT)
                return trip.result(message)
    except Malformed as error:
        trip.abandon()
        raise trip.nonsense(error) from error
    except BaseException:
        trip.abandon()
        raise


async def arun(
    call: IsolatedCall,
    function: Callable[..., Awaitable[Any]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """As `run` for a coroutine function, which the worker runs in a new event loop.

    Cancelling the await kills the worker.
    """
    if isolation.inside():
        return await function(*args, **kwargs)
    trip = _RoundTrip(call, function, args, kwargs, is_async=True)
    try:
        if call.worker_at_once():
            trip.take_worker()
        else:
            await off_loop.run_to_end(trip.take_worker)
        await _send(trip)
        call.restock()  # while the body runs
        message = await _answer(trip)
        if message is None:
            await _set(trip.worker.ended)
            raise trip.died()
        await _set(trip.worker.born)
        if message.is_large():  # what it unpickles may import modules
            return await off_loop.run(functools.partial(trip.result, message))
        return trip.result(message)
    except Malformed as error:
        await off_loop.run_to_end(trip.abandon)
        raise trip.nonsense(error) from error
    except GeneratorExit:  # a coroutine that is closed cannot await
        trip.abandon()
        raise
    except BaseException:
        if trip.is_waiting():
            await off_loop.run_to_end(trip.abandon)
        raise


class _RoundTrip:
    """One body on its way to a worker and back."""

    __slots__ = ("_call", "_payload", "_taken", "_unsent", "worker")

    worker: Worker

    def __init__(
        self,
        call: IsolatedCall,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        is_async: bool,
    ) -> None:
        try:
            self._payload = pickling.pack_call(function, args, kwargs, is_async=is_async)
        except Exception as error:
            raise unpicklable.in_call(error, function, args, kwargs) from error
        self._call = call
        self._taken = False
        self._unsent: list[tuple[bytes, pickling.Payload]] = []

    def take_worker(self) -> None:
        """Take a worker and find out which changes of the environment it needs."""
        worker = self.worker = self._call.worker()
        worker.done = False
        self._taken = True
        # What the worker sends it has in its own memory.
        memory_max = self._call.policy.limits.memory_max
        worker.channel.most = memory_max if isinstance(memory_max, int) else None
        self._call.note_isolated("process")
        changes = worker.applied = worker.snapshot.changes(worker.applied)
        if changes:
            self._unsent.append((ENVIRONMENT, pickling.pack(changes)))
        self._unsent.append((CALL if worker.stays else LAST_CALL, self._payload))

    def is_light(self) -> bool:
        """Return whether the messages carry all content, so that no reply is waited for."""
        return sum(pickling.size(payload) for _, payload in self._unsent) <= MESSAGE_MAX

    def send(self) -> None:
        """Send the environment and the call, or what of them is not sent yet.

        A worker that has ended is no error here: waiting for its answer finds that out.

        Raises:
            BlockingIOError: the channel does not block, and the worker does not read.
        """
        channel = self.worker.channel
        try:
            while self._unsent:
                kind, payload = self._unsent[0]
                channel.send(kind, *payload)
                del self._unsent[0]
        except (BrokenPipeError, ConnectionResetError):
            pass

    def is_answer(self, message: Message) -> bool:
        """Return whether a message is the answer; pass on output and log records of the body."""
        if message.kind in (RESULT, FAILURE, UNSHIPPABLE):
            return True
        if message.kind in (IMPORTING, IMPORTED):
            self._call.note_importing(message.kind == IMPORTING)
            return False
        try:
            is_output = output.relay(message)
        except Exception as error:  # such as of a handler, or of a closed stream
            self._call.warn(
                f"what tool {self._call.tool!r} prints or logs cannot be shown: {error!r}"
            )
            return False
        if not is_output:
            self._call.learn(message)  # of this call, or sent after the worker's previous answer
        return False

    def result(self, message: Message) -> Any:
        """Return the result in an answer, or raise the exception in it.

        The answer may come before the report of the worker's birth, which has to be waited for.
        """
        self.worker.done = True
        if message.kind == RESULT:
            try:
                return pickling.unpack(message.pickle, buffers=message.buffers)
            except pickling.FAULTS as error:  # many objects pickle and do not unpickle
                why = f"it does not unpickle: {type(error).__name__}: {error}"
                raise Unshippable("the result", "an object", why, ran=True) from error
        raise failures.unpack(message.pickle)

    def died(self) -> WorkerDied:
        """Return the exception for a worker that has ended without an answer."""
        how = self.worker.how or "ended"
        if self._call.stopped is None:
            self._call.note_worker_died(how)
        return WorkerDied(how)

    def nonsense(self, error: Malformed) -> WorkerDied:
        """Return the exception for a worker that has sent what is no message of a worker's."""
        how = f"malformed: {error}"
        self._call.note_worker_died(how)
        return WorkerDied(how)

    def is_waiting(self) -> bool:
        """Return whether a worker was taken that has not answered."""
        return self._taken and not self.worker.done

    def abandon(self) -> None:
        """Kill the worker if it has not answered, because nothing waits for its answer now."""
        if self.is_waiting():
            self.worker.done = True
            self._call.kill_worker()


async def _send(trip: _RoundTrip) -> None:
    """Do as `_RoundTrip.send`, and leave the channel as one that does not block."""
    channel = trip.worker.channel
    if trip.is_light():
        channel.set_blocking(False)
        try:
            trip.send()
        except BlockingIOError:
            pass
        else:
            return
    channel.set_blocking(True)
    await off_loop.run(trip.send)  # waits until the worker has copied it
    channel.set_blocking(False)


async def _answer(trip: _RoundTrip) -> Message | None:
    """Return the answer; None when the worker has ended without one."""
    channel = trip.worker.channel
    while True:
        found = await _next_message(channel)
        if isinstance(found, Offer):  # large
            found = await off_loop.run(functools.partial(channel.accept, found))
            if found is None:
                continue
        if found is None or trip.is_answer(found):
            return found


async def _next_message(channel: Channel) -> Message | Offer | None:
    """As `Channel.receive_nowait`, but wait on the event loop."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return channel.receive_nowait()
        except BlockingIOError:
            pass
        readable: asyncio.Future[None] = loop.create_future()
        loop.add_reader(channel.fileno(), _set_readable, readable)
        try:
            await readable
        finally:
            loop.remove_reader(channel.fileno())


def _set_readable(readable: asyncio.Future[None]) -> None:
    if not readable.done():
        readable.set_result(None)


async def _set(event: Event) -> None:
    """Wait until a report of the fork server has set an event of a worker."""
    deadline = time.monotonic() + _REPORT_WAIT
    while not event.is_set() and time.monotonic() < deadline:
        await asyncio.sleep(0.002)
