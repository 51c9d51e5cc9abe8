"""The work items that thread pools run, and those that their submitter has given up.

A thread cannot be stopped. Where a coroutine awaits a work item and is cancelled, asyncio cancels
the item's future, which does nothing to an item that runs already: the thread goes on with a body
for which no code waits any more. Such an item is given up, with all the work items that it submits.
"""

from __future__ import annotations

import concurrent.futures
import threading
import weakref
from typing import Any

from agentcgroup.threads import local

__all__ = ["WorkItem", "given_up", "serves_a_pool"]


class WorkItem:
    """One work item of a thread pool, from its submission to its end."""

    __slots__ = ("_given_up", "_submitter")

    def __init__(self) -> None:
        self._given_up = False
        self._submitter = _of_thread.item

    def begin(self) -> WorkItem | None:
        """Note that this thread runs it now; the result goes to `end`."""
        before, _of_thread.item = _of_thread.item, self
        return before

    def end(self, before: WorkItem | None) -> None:
        """Note that this thread has run it."""
        _of_thread.item = before

    def watch(self, future: concurrent.futures.Future[Any]) -> None:
        """Give the item up where its future is cancelled."""
        future.cancel = _Cancel(self, future)  # type: ignore[method-assign]

    def give_up(self) -> None:
        """Note that no code waits for it any more."""
        self._given_up = True

    @property
    def given_up(self) -> bool:
        """Whether it, or a work item that it was submitted from, is given up."""
        item: WorkItem | None = self
        while item is not None:
            if item._given_up:
                return True
            item = item._submitter
        return False


class _Cancel:
    """Takes the place of a future's method; a closure would keep the future in a circle."""

    __slots__ = ("_future", "_item")

    def __init__(self, item: WorkItem, future: concurrent.futures.Future[Any]) -> None:
        self._item = item
        self._future = weakref.ref(future)

    def __call__(self) -> bool:
        self._item.give_up()
        future = self._future()
        return future is not None and type(future).cancel(future)


class _OfThread(local):
    item: WorkItem | None = None


_of_thread = _OfThread()


def given_up() -> bool:
    """Return whether this thread runs a work item that its submitter has given up."""
    item = _of_thread.item
    return item is not None and item.given_up


def serves_a_pool(thread: threading.Thread) -> bool:
    """Return whether `thread` is a worker of a thread pool, or the manager of a process pool.

    By name: a program may import neither module, and loky has a copy of the last class.
    """
    target = getattr(thread, "_target", None)
    name = getattr(target, "__module__", None), getattr(target, "__name__", None)
    if name in (("concurrent.futures.thread", "_worker"), ("multiprocessing.pool", "worker")):
        return True
    return any(kind.__name__ == "_ExecutorManagerThread" for kind in type(thread).__mro__)
