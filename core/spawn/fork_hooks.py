"""Forks that no patch point makes: hooks around every fork that runs Python's fork hooks.

os.fork and os.forkpty are patch points (`patch_points`): a patch point gets the child's pid and can
raise. Other forks reach this package only through os.register_at_fork: libuv's forks under uvloop,
and those of C code that calls PyOS_BeforeFork. A hook can neither prevent a fork nor raise to its
caller. So when the call may start no more processes, the fork takes place, and the child exits with
status 126 and a line on stderr before it runs anything. Code around the fork that sets `refusals`
gets the reason; `uvloop_children` does.

Outside of calls a fork runs no Python function of this package: after a fork each page of memory
that parent or child touches is copied, and a Python function touches several.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from agentcgroup.scope import SpawnTarget, current
from agentcgroup.spawn import placement
from agentcgroup.spawn.backend import Backend
from agentcgroup.threads import local

try:
    from agentcgroup._native import where_set
except ImportError:

    def where_set(get: Callable[[], Any], function: Callable[[], None], /) -> Callable[[], None]:
        """Return what calls `function` unless `get()` is None."""

        def called() -> None:
            if get() is not None:
                function()

        return called


__all__ = ["at_forks_in_calls", "hook_forks", "refusals", "without_fork_hooks"]


def _none() -> None:
    """Return that no patch point places the next child."""


class _Fork(local):
    """The state of this thread's next fork."""

    #: Returns the block in which a patch point places the child; None outside of such blocks.
    by_patch_point: Callable[[], object] = staticmethod(_none)
    #: Hook `before` has run for a call, hook `after_in_parent` has not.
    begun = False
    #: `begin_spawn` of this target has begun, `end_spawn` has not run.
    target: SpawnTarget | None = None


_fork = _Fork()

#: Collects why forks were refused, for code that can raise it after the fork; None where none can.
refusals: ContextVar[list[BaseException] | None] = ContextVar("agentcgroup_refusals", default=None)


class without_fork_hooks:
    """A block in which the hooks place no child that this thread forks: a patch point does.

    The hooks know the block by a weak reference: it ends with the block, also where a signal
    handler raises before the first line of ``__exit__``.
    """

    __slots__ = ("__weakref__", "_before")

    def __enter__(self) -> None:
        self._before, _fork.by_patch_point = _fork.by_patch_point, weakref.ref(self)

    def __exit__(self, *_: object) -> None:
        _fork.by_patch_point = self._before


def at_forks_in_calls(**hooks: Callable[[], None]) -> None:
    """Do what os.register_at_fork does, for forks by code of a call."""
    # Not on Windows, where importing is all that works.
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(**{when: where_set(current.get, do) for when, do in hooks.items()})


def hook_forks(backend: Backend) -> None:
    """Place the children of all forks from now on. Python has no way to remove fork hooks."""

    def before() -> None:
        target = placement.current_target()
        if target is None or _fork.by_patch_point() is not None:
            return
        _fork.begun = True
        _fork.target = target
        try:
            placement.begin_fork(target, backend.set_fork_target)
        except BaseException as error:
            backend.refuse_forks()
            refused = refusals.get()
            if refused is None:
                raise  # Python prints it
            refused.append(error)

    def after_in_parent() -> None:
        if not _fork.begun:
            return
        _fork.begun = False
        backend.clear_fork_target()
        target, _fork.target = _fork.target, None
        if target is not None:
            target.end_spawn(None)

    def after_in_child() -> None:
        backend.after_fork_in_child()
        _fork.begun = False
        _fork.target = None
        if placement.current_target() is not None:
            placement.mark_inherited()

    at_forks_in_calls(before=before, after_in_parent=after_in_parent, after_in_child=after_in_child)
