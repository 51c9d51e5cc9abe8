"""Children of the running call land in its cgroup, however Python code starts them.

`install` puts patch points in the place of the few builtins by which processes are made; each asks
`scope.current` for the running call and, if there is one, starts the child in that call's cgroup.
Outside of a call everything goes its old way. `placement` has the protocol, `points` the functions,
`forks` the forks that others make, `multiprocess` the daemons that must not live in a call.

The modules here are ordered: __init__ > points, forks, multiprocess > native, pure > placement,
arguments, backend.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import wrapt

from agentcgroup import scope
from agentcgroup.spawn import placement
from agentcgroup.spawn.backend import Backend, Mode
from agentcgroup.spawn.forks import hook_forks
from agentcgroup.spawn.multiprocess import join_from_fork_server
from agentcgroup.spawn.placement import PlacementError, inherited
from agentcgroup.spawn.points import Point, make_points
from agentcgroup.spawn.replace import replace

__all__ = ["Capabilities", "PlacementError", "capabilities", "inherited", "install", "uninstall"]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """How children get into their cgroup on this machine.

    Attributes:
        native: whether the C extension does it.
        mode: "clone3": born inside; "vfork" and "fork": the child moves itself first, which costs
            a grace period of the kernel, about 10 ms.
        reason: why it is not clone3, None if it is.
    """

    native: bool
    mode: Mode
    reason: str | None


_backend: Backend | None = None
_points: list[Point] = []


def capabilities() -> Capabilities:
    """Return how children get into their cgroup here; decided once in a process."""
    mode, reason = _the_backend().mode()
    return Capabilities(native=mode != "fork", mode=mode, reason=reason)


def install() -> None:
    """Let every child started in a call from now on be born in the call's cgroup; idempotent.

    Threads and thread pools carry the call along (see `scope.install`).
    """
    backend = _the_backend()
    if not _points:
        _points.extend(make_points(backend))
        hook_forks(backend)
        wrapt.register_post_import_hook(
            join_from_fork_server, "multiprocessing.popen_forkserver"
        )
    replace(_points)
    scope.install()
    placement.switch(True)


def uninstall() -> None:
    """Undo `install`: give the builtins back; whoever kept one of ours has a pass-through."""
    placement.switch(False)
    scope.uninstall()
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
