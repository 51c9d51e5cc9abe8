"""The current call: a ContextVar, and its propagation to threads.

This module stands below all code that runs calls. Of a call it defines only the protocol that
`spawn` needs.

asyncio copies the context into every task. A thread starts with an empty context (until Python
3.14), and a work item of a thread pool runs in the context of its worker. `install` propagates the
variables below to both:

- a thread gets the values of the code that calls `start`;
- a work item gets the values of the code that calls `submit`, None included; its worker's own
  values are restored when the work item ends;
- a worker of a pool gets no value, because it runs work items of later calls, too.

A thread or task may outlive the call that started it, with the call's value. What it starts then is
decided by the call (`calls.Call.begin_spawn`).
"""

from __future__ import annotations

import concurrent.futures
import contextvars
import functools
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar, Token
from types import ModuleType
from typing import Any, Protocol, TypeVar

import wrapt

from agentcgroup.work_items import WorkItem, serves_a_pool

__all__ = [
    "CallGroup",
    "SpawnTarget",
    "agent",
    "call_group",
    "current",
    "install",
    "propagated_context",
    "restore",
    "set_thread_tracker",
    "thread_working_for",
    "uninstall",
]

T = TypeVar("T")


class SpawnTarget(Protocol):
    """The owner of new child processes, and of the cgroup that they are born in.

    A call is the `SpawnTarget` of the processes that its tool starts. Package `spawn` calls the two
    methods around the start of every process.

    Guarantees:

    - `begin_spawn` runs before the child exists, in the thread that starts the child.
    - An `end_spawn` follows each `begin_spawn`, in the same thread, whatever `begin_spawn` returned
      or raised, and also where the start of the child fails. After a `begin_spawn` that raised no
      child runs.
    - A signal handler may raise between any two lines of Python, also before the first line of
      `end_spawn`, which then never runs. A thread between the two is found by its frames, too.
    - A second `begin_spawn`, with `failed`, follows where the first cgroup takes no process. Where
      the second cgroup takes none either, the spawn fails with CgroupUnavailable.
    - Neither method runs in a forked child.
    - Several threads may be between `begin_spawn` and `end_spawn` at the same time.
    """

    def begin_spawn(self, failed: OSError | None = None) -> int | None:
        """Return a directory fd of the cgroup that the next child is to be born in.

        None: the child starts in the cgroup of this process. The first call makes the cgroup. The
        fd stays open until the matching `end_spawn`. `failed` is the error of an attempt with the
        fd returned before (the cgroup was removed, or has children of its own now); `end_spawn` has
        ended that attempt.

        Raises:
            LimitExceeded: the call is over (timed out, cancelled); no child may start in it.
            CgroupUnavailable: the cgroup cannot be made, and the policy is to refuse the child.
        """

    def end_spawn(self, pid: int | None) -> None:
        """End the spawn that `begin_spawn` began.

        Args:
            pid: of the child; None where no child started, or where C code forked and did not
                report the pid.
        """

    def note_child(self, pid: int) -> None:
        """Take note of the pid of a child, whose `end_spawn` had none."""

    @property
    def over(self) -> bool:
        """Whether it owns no further process: its call has ended or was stopped."""

    def background(self) -> SpawnTarget:
        """Return the owner of processes that outlive the call, such as those of a pool."""

    def note_helpers(self) -> None:
        """Take note that the call uses processes that it does not own."""


class CallGroup(Protocol):
    """The calls started from one place, which a cancellation of that place stops."""

    @property
    def cancelled(self) -> bool:
        """Whether that place was cancelled."""

    def append(self, call: Any) -> None:
        """Add `call`, which has just started."""


#: The call whose code is running in this context, or None.
current: ContextVar[SpawnTarget | None] = ContextVar("agentcgroup_call", default=None)

#: The agent named by `agentcgroup.agent`, or None.
agent: ContextVar[Any] = ContextVar("agentcgroup_agent", default=None)

#: The group that calls started in this context join, so that a cancellation also stops calls in
#: threads; or None.
call_group: ContextVar[CallGroup | None] = ContextVar("agentcgroup_call_group", default=None)


def restore(variable: ContextVar[T], token: Token[T]) -> None:
    """Restore the value that a variable had before a generator or coroutine set it.

    Python closes an unfinished generator where its last reference goes, which may be in another
    context. That context never had the value of `token`, and this function changes nothing there.
    Nor does it where the token was used, and a signal handler raised before the next line.
    """
    try:  # contextlib.suppress would be three more functions of Python in every call
        variable.reset(token)
    except (ValueError, RuntimeError):
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
    return _thread_tracker(None if getattr(call, "lasting", False) else call)


#: The variables that threads and work items get; the default of each is None.
_propagated: tuple[ContextVar[Any], ...] = (current, agent, call_group)


def _snapshot() -> list[tuple[ContextVar[Any], Any]]:
    return [(variable, variable.get()) for variable in _propagated]


def propagated_context() -> contextvars.Context | None:
    """Return a context with the values of this code and nothing else; None where all are None."""
    values = _snapshot() if _installed else []
    if all(value is None for _, value in values):
        return None
    context = contextvars.Context()
    for variable, value in values:
        context.run(variable.set, value)
    return context


def _start_for_no_call(start: Callable[[threading.Thread], None], thread: threading.Thread) -> None:
    """Start a thread without values also where Python propagates the context (3.14, by a flag)."""
    for variable in _propagated:
        variable.set(None)
    start(thread)


def _propagating_start(start: Callable[[threading.Thread], None]) -> Callable[..., None]:
    @functools.wraps(start)
    def propagating_start(self: threading.Thread) -> None:
        values = _snapshot() if _installed else []
        if all(value is None for _, value in values):
            start(self)
            return
        if serves_a_pool(self) and not getattr(current.get(), "lasting", False):
            contextvars.copy_context().run(_start_for_no_call, start, self)
            return
        # On the instance and not on Thread.run, which subclasses override.
        attributes = self.__dict__
        before = attributes.get("run")
        run = self.run

        def restore_run() -> None:
            attributes.pop("run", None)
            if before is not None:
                attributes["run"] = before

        def run_with_values() -> None:
            restore_run()
            for variable, value in values:
                variable.set(value)
            with thread_working_for(current.get()):
                run()

        attributes["run"] = run_with_values
        try:
            start(self)
        except BaseException:
            restore_run()
            raise

    return propagating_start


def _propagating_submit(submit: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(submit)
    def propagating_submit(self: Any, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        if not _installed or isinstance(self, _PICKLES_WORK_ITEMS):
            return submit(self, fn, *args, **kwargs)
        item = WorkItem()
        future = submit(self, _with_values(fn, item), *args, **kwargs)
        item.watch(future)
        return future

    return propagating_submit


def _with_values(fn: Callable[..., Any], item: WorkItem) -> Callable[..., Any]:
    """Return `fn` with the values of this context, for a worker of a pool to run as `item`."""
    values = _snapshot()

    def fn_with_values(*args: Any, **kwargs: Any) -> Any:
        tokens = [(variable, variable.set(value)) for variable, value in values]
        before = item.begin()
        try:
            with thread_working_for(current.get()):
                return fn(*args, **kwargs)
        finally:
            item.end(before)
            for variable, token in tokens:
                variable.reset(token)

    return fn_with_values


def _propagating_apply(apply: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a method of `multiprocessing.pool.ThreadPool` whose first argument is the function."""

    @functools.wraps(apply)
    def propagating_apply(self: Any, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return apply(self, _with_values(func, WorkItem()) if _installed else func, *args, **kwargs)

    return propagating_apply


#: Python 3.14's pool of interpreters is a pool of threads, but it pickles its work items.
_PICKLES_WORK_ITEMS: Any = getattr(concurrent.futures, "InterpreterPoolExecutor", ())


_installed = False
_hooked = False

#: (class, name of the method, the method before the patch, the patch).
_patches: list[tuple[Any, str, Any, Any]] = []


def install() -> None:
    """Propagate the variables to threads and work items from now on; idempotent."""
    global _installed, _hooked
    if _installed:
        return
    _installed = True
    _patch(threading.Thread, "start", _propagating_start)
    _patch(concurrent.futures.ThreadPoolExecutor, "submit", _propagating_submit)
    if _hooked and (pool := sys.modules.get("multiprocessing.pool")) is not None:
        _patch_thread_pool(pool)
    elif not _hooked:
        _hooked = True
        wrapt.register_post_import_hook(_patch_thread_pool, "multiprocessing.pool")


def _patch(owner: Any, name: str, wrap: Callable[[Any], Any]) -> None:
    before = getattr(owner, name)
    patch = wrap(before)
    setattr(owner, name, patch)
    _patches.append((owner, name, before, patch))


def _patch_thread_pool(pool: ModuleType) -> None:
    """Patch module multiprocessing.pool, which is imported now, or was before `install`."""
    if _installed:
        for name in ("apply_async", "_map_async", "imap", "imap_unordered"):
            _patch(pool.ThreadPool, name, _propagating_apply)


def uninstall() -> None:
    """Undo `install`; a patch that another library has wrapped stays and only calls through."""
    global _installed
    _installed = False
    while _patches:
        owner, name, before, patch = _patches.pop()
        if getattr(owner, name) is patch:
            setattr(owner, name, before)
