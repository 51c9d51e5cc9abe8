"""Every process that a call starts is born in the call's cgroup, however Python code starts it.

`install` replaces the few builtins that create processes. A replacement asks `scope.current` for
the running call and starts the child in that call's cgroup; without a call it calls the builtin.

    subprocess, asyncio, os.popen, multiprocessing, ...      uvloop, forks by other C code
                     |                                                   |
    patch_points: _posixsubprocess.fork_exec,                 fork_hooks: os.register_at_fork
    os.posix_spawn[p], os.system, os.fork[pty]                           |
                     |                                                   |
    placement.place                                           placement.begin_fork
                     |                                                   |
                     +-------> target.begin_spawn() -> fd of the cgroup <+
                                         |
             +---------------------------+---------------------------+
    native_backend, clone3      native_backend, vfork        python_backend
    the kernel links the        the child writes "0" to      a fork; the child writes
    child into the cgroup       cgroup.procs before exec     "0" to cgroup.procs
             +---------------------------+---------------------------+
                                         |
                     PlacementError: begin_spawn(error) once more, then CgroupUnavailable
                                         |
                               target.end_spawn(pid)

Real forks (os.fork, preexec_fn, other C code) write to cgroup.procs in each of the three modes.

- `patch_points`: the replacement of each builtin.
- `fork_hooks`: forks that no patch point makes.
- `uvloop_children`: what such a fork of uvloop cannot raise, and its pid.
- `fork_warning`: has no fork warned of for the sake of this package's threads.
- `pools`: process pools and managers, whose processes belong to an object and not to a call.
- `multiprocessing_daemons`: the fork server and the resource tracker, which belong to no call.
- `placement`: the protocol between a spawn and its `scope.SpawnTarget`.
- `backend`: the protocol of what creates a child in a cgroup; `native_backend` and
  `python_backend` implement it.
- `spawn_request`: the arguments of os.posix_spawn, checked.
- `module_globals`: replaces an object in every module that holds it.

The modules import in this order: __init__ > patch_points > native_backend, python_backend >
uvloop_children > fork_hooks, fork_warning, multiprocessing_daemons, pools > placement >
spawn_request, backend.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import wrapt

from agentcgroup.spawn import placement
from agentcgroup.spawn.backend import Backend, Mode
from agentcgroup.spawn.fork_hooks import hook_forks
from agentcgroup.spawn.module_globals import replace_globals
from agentcgroup.spawn.multiprocessing_daemons import patch_fork_server_workers
from agentcgroup.spawn.patch_points import PatchPoint, make_patch_points
from agentcgroup.spawn.placement import PlacementError, inherited
from agentcgroup.spawn.pools import hook_pools
from agentcgroup.spawn.uvloop_children import patch_loop

__all__ = ["PlacementError", "SpawnMethod", "inherited", "install", "method", "uninstall"]


@dataclass(frozen=True, slots=True)
class SpawnMethod:
    """How children get into their cgroup on this machine, for `agentcgroup doctor`.

    Attributes:
        mode: "clone3": the child is born in the cgroup; "vfork" and "fork": the child moves itself
            before it does anything else, which waits for an RCU grace period, about 10 ms.
        state: "yes" for "clone3", else "partly".
        detail: the mechanism, and why there is no better one.
        fix: what the user can do to get "clone3"; None with "clone3".
    """

    mode: Mode
    state: Literal["yes", "partly"]
    detail: str
    fix: str | None


_backend: Backend | None = None
_patch_points: list[PatchPoint] = []


def method() -> SpawnMethod:
    """Return how children get into their cgroup here; the process keeps it until it ends."""
    mode, reason = _the_backend().mode()
    if mode == "clone3":
        return SpawnMethod(mode, "yes", "clone3 with CLONE_INTO_CGROUP", None)
    if mode == "vfork":
        fix = "Linux 5.7 or later, and a seccomp profile that allows clone3."
        return SpawnMethod(mode, "partly", f"each child moves itself (about 10 ms): {reason}.", fix)
    fix = "install again where there is a C compiler, or from a wheel."
    return SpawnMethod(mode, "partly", f"each child is a fork that moves itself: {reason}.", fix)


def install() -> None:
    """Place every child that a call starts from now on in the call's cgroup; idempotent.

    `propagation.install` propagates the call to threads and thread pools.
    """
    backend = _the_backend()
    if not _patch_points:
        _patch_points.extend(make_patch_points(backend))
        hook_forks(backend)
        hook_pools()
        wrapt.register_post_import_hook(
            patch_fork_server_workers, "multiprocessing.popen_forkserver"
        )
        wrapt.register_post_import_hook(patch_loop, "uvloop")
    replace_globals(_patch_points)
    placement.enable(True)


def uninstall() -> None:
    """Undo `install`: restore the builtins. A reference to a replacement then calls the builtin."""
    placement.enable(False)
    replace_globals((replacement, original) for original, replacement in _patch_points)


def _the_backend() -> Backend:
    global _backend
    if _backend is None:
        _backend = _choose_backend()
    return _backend


def _choose_backend() -> Backend:
    """Return the backend of the C extension; Python's without it, or with AGENTCGROUP_PURE=1."""
    if os.environ.get("AGENTCGROUP_PURE", "0") in ("", "0"):
        try:
            from agentcgroup.spawn.native_backend import NativeBackend
        except ImportError:
            pass
        else:
            return NativeBackend()
    from agentcgroup.spawn.python_backend import PythonBackend

    return PythonBackend()
