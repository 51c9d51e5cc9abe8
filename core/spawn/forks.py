"""Forks that someone else makes: hooks around every fork of this process that runs Python's.

os.fork and os.forkpty are patch points (`points`), which know the child's pid and can raise. Other
forks reach us only through os.register_at_fork: libuv's under uvloop, and C code that calls
PyOS_BeforeFork. A hook can neither stop a fork nor raise to its caller, so when the call takes no
more processes the fork goes ahead and the child ends at once, with a line on stderr and status 126.
"""

from __future__ import annotations

import os
import threading

from agentcgroup.scope import SpawnTarget
from agentcgroup.spawn import placement
from agentcgroup.spawn.backend import Backend

__all__ = ["guarded", "hook_forks"]


class _Fork(threading.local):
    """The fork that this thread is about to make."""

    guarded = False
    armed = False
    home: SpawnTarget | None = None


_fork = _Fork()


class guarded:
    """Say that a patch point has seen to the forks made in this block by this thread."""

    __slots__ = ("_before",)

    def __enter__(self) -> None:
        self._before, _fork.guarded = _fork.guarded, True

    def __exit__(self, *_: object) -> None:
        _fork.guarded = self._before


def hook_forks(backend: Backend) -> None:
    """Place the children of all forks from now on. Python cannot take such hooks back."""

    def before() -> None:
        home = placement.home_of_spawn()
        if home is None or _fork.guarded:
            return
        _fork.armed = True
        try:
            placement.arm(home, backend.arm)
        except BaseException:
            backend.refuse()
            raise
        _fork.home = home

    def after_in_parent() -> None:
        if not _fork.armed:
            return
        _fork.armed = False
        backend.disarm()
        home, _fork.home = _fork.home, None
        if home is not None:
            home.end_spawn(None)

    def after_in_child() -> None:
        backend.after_fork_in_child()
        _fork.armed = False
        _fork.home = None
        if placement.home_of_spawn() is not None:
            placement.inherit()

    os.register_at_fork(
        before=before, after_in_parent=after_in_parent, after_in_child=after_in_child
    )
