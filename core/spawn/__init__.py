"""Children of the running call land in its cgroup, however Python code starts them.

`install` puts patch points in the place of the few builtins by which processes are made; each asks
`scope.current` for the running call and, if there is one, starts the child in that call's cgroup.
Outside of a call everything goes its old way. `placement` has the protocol, `points` the functions,
`forks` the forks that others make, `multiprocess` the daemons that must not live in a call.

The modules here are ordered: __init__ > points > native, pure > forks, multiprocess > placement >
arguments, backend.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import wrapt

from agentcgroup.spawn import placement
from agentcgroup.spawn.backend import Backend, Mode
from agentcgroup.spawn.forks import hook_forks
from agentcgroup.spawn.multiprocess import join_from_fork_server
from agentcgroup.spawn.placement import PlacementError, inherited
from agentcgroup.spawn.points import Point, make_points
from agentcgroup.spawn.replace import replace

__all__ = ["Facts", "PlacementError", "facts", "inherited", "install", "uninstall"]


@dataclass(frozen=True, slots=True)
class Facts:
    """How children get into their cgroup on this machine, for `agentcgroup doctor`.

    Attributes:
        mode: "clone3": born inside; "vfork" and "fork": the child moves itself before anything
            else, which costs a grace period of the kernel, about 10 ms.
        state: "yes" for born inside, "partly" else.
        detail: what is done, and why not better.
        fix: what would make it better, None where nothing is to be made better.
    """

    mode: Mode
    state: Literal["yes", "partly"]
    detail: str
    fix: str | None


_backend: Backend | None = None
_points: list[Point] = []


def facts() -> Facts:
    """Return how children get into their cgroup here; it does not change while a process runs."""
    mode, reason = _the_backend().mode()
    if mode == "clone3":
        return Facts(mode, "yes", "clone3 with CLONE_INTO_CGROUP", None)
    if mode == "vfork":
        fix = "Linux 5.7 or later, and a seccomp profile that allows clone3."
        return Facts(mode, "partly", f"each child moves itself (about 10 ms): {reason}.", fix)
    fix = "install again where there is a C compiler, or from a wheel."
    return Facts(mode, "partly", f"each child is a fork that moves itself: {reason}.", fix)


def install() -> None:
    """Let every child started in a call from now on be born in the call's cgroup; idempotent.

    Threads and pools of threads carry the call only with `scope.install`.
    """
    backend = _the_backend()
    if not _points:
        _points.extend(make_points(backend))
        hook_forks(backend)
        wrapt.register_post_import_hook(join_from_fork_server, "multiprocessing.popen_forkserver")
    replace(_points)
    placement.switch(True)


def uninstall() -> None:
    """Undo `install`: give the builtins back; whoever kept one of ours has a pass-through."""
    placement.switch(False)
    replace((ours, original) for original, ours in _points)


def _the_backend() -> Backend:
    global _backend
    if _backend is None:
        _backend = _choose_backend()
    return _backend


def _choose_backend() -> Backend:
    """Return the C extension's way, or Python's without it or with AGENTCGROUP_PURE=1."""
    if os.environ.get("AGENTCGROUP_PURE", "0") in ("", "0"):
        try:
            from agentcgroup.spawn.native import Native
        except ImportError:
            pass
        else:
            return Native()
    from agentcgroup.spawn.pure import Pure

    return Pure()
