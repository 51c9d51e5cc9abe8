"""The propagation of the current call to threads, and to the work items of thread pools.

A thread starts with an empty context (until Python 3.14), and a work item of a thread pool runs in
the context of its worker. `install` propagates the variables of `scope` to both:

- a thread gets the values of the code that calls `start`;
- a work item gets the values of the code that calls `submit`, None included; its worker's own
  values are restored when the work item ends;
- a worker of a pool gets no value, because it runs work items of later calls, too.
"""

from __future__ import annotations

import contextvars
import functools
import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from types import ModuleType
from typing import Any, Final

import wrapt

from agentcgroup import scope
from agentcgroup.work_items import WorkItem, serves_a_pool

__all__ = ["install", "propagated_context", "uninstall"]

#: The variables that threads and work items get; the default of each is None.
_propagated: tuple[ContextVar[Any], ...] = (scope.current, scope.agent, scope.call_group)


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
        if serves_a_pool(self) and not getattr(scope.current.get(), "lasting", False):
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
            with scope.thread_working_for(scope.current.get()):
                run()

        attributes["run"] = run_with_values
        try:
            start(self)
        except BaseException:
            restore_run()
            raise

    return propagating_start


def _pickles_work_items(executor: object) -> bool:
    """Return whether it is Python 3.14's pool of interpreters, which is a pool of threads."""
    module = sys.modules.get("concurrent.futures.interpreter")
    return module is not None and isinstance(executor, module.InterpreterPoolExecutor)


def _propagating_submit(submit: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(submit)
    def propagating_submit(self: Any, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        if not _installed or _pickles_work_items(self):
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
            with scope.thread_working_for(scope.current.get()):
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
    for name, patch in _POOLS.items():
        if not _hooked:
            wrapt.register_post_import_hook(patch, name)
        elif (module := sys.modules.get(name)) is not None:
            patch(module)
    _hooked = True


def _patch(owner: Any, name: str, wrap: Callable[[Any], Any]) -> None:
    before = getattr(owner, name)
    patch = wrap(before)
    setattr(owner, name, patch)
    _patches.append((owner, name, before, patch))


def _patch_executor(module: ModuleType) -> None:
    """Patch module concurrent.futures.thread, which is imported now, or was before `install`."""
    if _installed:
        _patch(module.ThreadPoolExecutor, "submit", _propagating_submit)


def _patch_thread_pool(pool: ModuleType) -> None:
    """Patch module multiprocessing.pool, which is imported now, or was before `install`."""
    if _installed:
        for name in ("apply_async", "_map_async", "imap", "imap_unordered"):
            _patch(pool.ThreadPool, name, _propagating_apply)


#: Patched when the program imports them, not before: concurrent.futures.thread makes a lock that
#: its fork hook takes, and a patch of gevent that comes later does not replace that lock.
_POOLS: Final = {
    "concurrent.futures.thread": _patch_executor,
    "multiprocessing.pool": _patch_thread_pool,
}


def uninstall() -> None:
    """Undo `install`; a patch that another library has wrapped stays and only calls through."""
    global _installed
    _installed = False
    while _patches:
        owner, name, before, patch = _patches.pop()
        if getattr(owner, name) is patch:
            setattr(owner, name, before)
