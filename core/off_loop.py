"""What may take milliseconds, on a thread of its own, while a coroutine waits on its event loop.

`asyncio.to_thread` is no way for work that a call's end waits for: it uses the executor of the
loop, and tools that run there for minutes leave no thread free. So each piece of work has a thread,
which takes 0.1 ms to start. The work sees a copy of the context of the coroutine.

A coroutine that another library runs, such as trio or curio, does the work itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Callable
from typing import TypeVar, cast

from agentcgroup.threads import start_thread

__all__ = ["has_loop", "run", "run_to_end"]

T = TypeVar("T")


def has_loop() -> bool:
    """Return whether asyncio runs the current coroutine."""
    return asyncio._get_running_loop() is not None


async def run(work: Callable[[], T]) -> T:
    """Run `work` on a thread; return what it returns and raise what it raises.

    A cancellation of the await abandons the work, which goes on.
    """
    return await _started(work) if has_loop() else work()


async def run_to_end(work: Callable[[], T]) -> T:
    """As `run`, but a cancellation of the await is raised when the work has ended, not before.

    For bounded work that has to be done whatever becomes of the task.
    """
    done = _started(work)
    cancelled: asyncio.CancelledError | None = None
    while not done.done():
        try:
            await asyncio.wait([done])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return done.result()
    done.exception()  # else asyncio logs that nobody has asked for it
    raise cancelled


def _started(work: Callable[[], T]) -> asyncio.Future[T]:
    """Start a thread for `work` and return the future of its end."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()
    context = contextvars.copy_context()

    def end(result: T | None, error: BaseException | None) -> None:
        if done.done():  # the await was cancelled
            return
        if error is None:
            done.set_result(cast(T, result))
        else:
            done.set_exception(error)

    def work_in_thread() -> None:
        result, error = None, None
        try:
            result = context.run(work)
        except BaseException as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits
            loop.call_soon_threadsafe(end, result, error)

    try:
        start_thread(work_in_thread, "off-loop")
    except RuntimeError:  # the app may start no more threads: a blocked loop is better than no end
        work_in_thread()
    return done
