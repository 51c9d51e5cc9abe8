"""The current call: one ContextVar, and its way across threads.

Stands below everything that runs calls: it knows only what `spawn` needs of one.

asyncio copies the context into every task; threads start with an empty one (until Python 3.14),
and so do the work items of a pool. `install` makes both carry the variables below:

- a thread takes the values of the code that calls `start`;
- a work item takes those of the code that calls `submit`, also where that is None, and gives back
  what its worker had;
- a worker of a pool takes none, since it serves whoever comes later.
"""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.thread
import contextvars
import functools
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar, Token
from typing import Any, Protocol, TypeVar

__all__ = [
    "SpawnTarget",
    "Started",
    "agent",
    "current",
    "install",
    "restore",
    "set_thread_tracker",
    "start_thread",
    "started",
    "thread_working_for",
    "uninstall",
]

T = TypeVar("T")


class SpawnTarget(Protocol):
    """Where a child process of the running call belongs; `session.Call` is the real one."""

    def begin_spawn(self, failed: OSError | None = None) -> int | None:
        """Return a directory fd of the cgroup the next child is to be born in.

        None means: do not place it. Makes the cgroup at the first child. The fd stays open until
        the matching `end_spawn`. `failed` is the error of an attempt just made with the fd
        returned before (the cgroup was removed, or now has children of its own); that attempt
        has been ended.

        Raises:
            LimitExceeded: the call is over (timed out, cancelled); no child may start in it.
            CgroupUnavailable: the cgroup cannot be made and the policy says to refuse.
        """

    def end_spawn(self, pid: int | None) -> None:
        """Say that the spawn is done: `pid` of the child, None when there is none or nobody knows.

        Called once, in the same thread, for every `begin_spawn` that returned, whatever it
        returned; never in a forked child.
        """


class Started(Protocol):
    """Takes note of the calls started from one place; `execution.cancelling` has the real one."""

    def append(self, call: Any) -> None:
        """Note `call`, which has just been started."""


#: The call whose code is running in this context, or None.
current: ContextVar[SpawnTarget | None] = ContextVar("agentcgroup_call", default=None)

#: The agent named by `agentcgroup.agent`, or None.
agent: ContextVar[Any] = ContextVar("agentcgroup_agent", default=None)

#: Where calls started from here are noted, so that a cancellation reaches those in threads.
started: ContextVar[Started | None] = ContextVar("agentcgroup_started", default=None)


def restore(variable: ContextVar[T], token: Token[T]) -> None:
    """Give a variable of a generator or coroutine the value that it had before.

    What was left half-way is closed wherever its last reference goes: another context, which never
    had our value, has none to give back.
    """
    try:  # contextlib.suppress would be three more functions of Python in every call
        variable.reset(token)
    except ValueError:
        return


#: Tracks which call a thread works for; nullcontext without a monitor.
_thread_tracker: Callable[[Any], AbstractContextManager[None]] = nullcontext


def set_thread_tracker(tracker: Callable[[Any], AbstractContextManager[None]] | None) -> None:
    """Have each thread enter `tracker(call)` while it works for a call that it did not begin.

    Args:
        tracker: `Monitor.working_for`; a thread that works for no call passes None to it. None for
            no tracker.
    """
    global _thread_tracker
    _thread_tracker = nullcontext if tracker is None else tracker


def thread_working_for(call: SpawnTarget | None) -> AbstractContextManager[None]:
    """Return the context in which this thread works for a call, or for none."""
    return _thread_tracker(call)


#: What a thread or a work item carries; each of them has None for "nothing".
_carried: tuple[ContextVar[Any], ...] = (current, agent, started)


def _values() -> list[tuple[ContextVar[Any], Any]]:
    return [(variable, variable.get()) for variable in _carried]


def _serves_a_pool(thread: threading.Thread) -> bool:
    """Return whether this is a worker of a thread pool, or what restocks a process pool."""
    return getattr(thread, "_target", None) is concurrent.futures.thread._worker or any(
        # By name: loky has a copy of the standard library's.
        kind.__name__ == "_ExecutorManagerThread"
        for kind in type(thread).__mro__
    )


def _carrying_start(start: Callable[[threading.Thread], None]) -> Callable[..., None]:
    @functools.wraps(start)
    def carrying_start(self: threading.Thread) -> None:
        values = _values() if _installed else []
        if all(value is None for _, value in values) or _serves_a_pool(self):
            start(self)
            return
        # On the instance and not on Thread.run, which subclasses override.
        attributes = self.__dict__
        before = attributes.get("run")
        run = self.run

        def give_back() -> None:
            attributes.pop("run", None)
            if before is not None:
                attributes["run"] = before

        def carried_run() -> None:
            give_back()
            for variable, value in values:
                variable.set(value)
            with thread_working_for(current.get()):
                run()

        attributes["run"] = carried_run
        try:
            start(self)
        except BaseException:
            give_back()
            raise

    return carrying_start


def _carrying_submit(submit: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(submit)
    def carrying_submit(self: Any, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        if not _installed or isinstance(self, _CARRIED_BY_OTHERS):
            return submit(self, fn, *args, **kwargs)
        values = _values()

        def carried_fn(*args: Any, **kwargs: Any) -> Any:
            tokens = [(variable, variable.set(value)) for variable, value in values]
            try:
                with thread_working_for(current.get()):
                    return fn(*args, **kwargs)
            finally:
                for variable, token in tokens:
                    variable.reset(token)

        return submit(self, carried_fn, *args, **kwargs)

    return carrying_submit


#: Python 3.14's pool of interpreters is a pool of threads, but its work items are pickled.
_CARRIED_BY_OTHERS: Any = getattr(concurrent.futures, "InterpreterPoolExecutor", ())


def start_thread(target: Callable[[], None], name: str) -> threading.Thread:
    """Start a daemon thread of ours, which must not belong to the call that happens to need it."""
    thread = threading.Thread(target=target, name=f"agentcgroup-{name}", daemon=True)
    contextvars.Context().run(thread.start)
    return thread


_installed = False

#: class, method, what was there, ours.
_patches: list[tuple[Any, str, Any, Any]] = []


def install() -> None:
    """Let threads and work items carry the variables; idempotent."""
    global _installed
    if _installed:
        return
    _installed = True
    for owner, name, wrap in (
        (threading.Thread, "start", _carrying_start),
        (concurrent.futures.ThreadPoolExecutor, "submit", _carrying_submit),
    ):
        there = getattr(owner, name)
        ours = wrap(there)
        setattr(owner, name, ours)
        _patches.append((owner, name, there, ours))


def uninstall() -> None:
    """Undo `install`; where another patch stands on ours, ours stays and does nothing."""
    global _installed
    _installed = False
    while _patches:
        owner, name, there, ours = _patches.pop()
        if getattr(owner, name) is ours:
            setattr(owner, name, there)
