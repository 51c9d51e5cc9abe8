"""The daemons of multiprocessing, which belong to no call, and the workers of its fork server.

The resource tracker and the fork server start at their first use and serve the whole process until
it ends. Born in a call, they would be killed with it, and the fork server would fork every later
worker in a cgroup that no longer exists. So they start as if no call were running, and a worker
that the fork server forks for a call joins the call's cgroup itself: the first object that it
unpickles makes it do so.
"""

from __future__ import annotations

import functools
from types import FrameType, ModuleType
from typing import Any

from agentcgroup import syscalls
from agentcgroup.spawn import placement
from agentcgroup.threads import local

__all__ = ["patch_fork_server_workers", "starts_daemon"]

#: Modules that spawn only such daemons.
_DAEMONS = frozenset(
    {
        "multiprocessing.forkserver",
        "multiprocessing.resource_tracker",
        "loky.backend.resource_tracker",
        "joblib.externals.loky.backend.resource_tracker",
    }
)


def starts_daemon(caller: FrameType | None) -> bool:
    """Return whether the frame that calls fork_exec starts one of the daemons.

    The calling module decides, not the command line, which could be the text of a model.
    """
    # fork_exec <- multiprocessing.util.spawnv_passfds <- the daemon's module
    origin = caller.f_back if caller is not None else None
    return origin is not None and origin.f_globals.get("__name__") in _DAEMONS


class _JoinCgroup:
    """Unpickles as `None`, and moves the process that unpickles it into the cgroup.

    It pickles as builtins only, because the fork server may be unable to import this package.
    """

    def __init__(self, path: str) -> None:
        self._procs = f"{path}/cgroup.procs"

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("with open(procs, 'w') as file: file.write('0')", {"procs": self._procs})


class _Launch(local):
    """The worker that this thread is requesting from the fork server."""

    join: _JoinCgroup | None = None


_launch = _Launch()


def patch_fork_server_workers(popen_forkserver: ModuleType) -> None:
    """Patch module multiprocessing.popen_forkserver; it runs once, when the module is imported."""
    popen = popen_forkserver.Popen
    spawn = popen_forkserver.spawn
    launch, get_preparation_data = popen._launch, spawn.get_preparation_data

    @functools.wraps(launch)
    def placed_launch(self: Any, process_obj: Any) -> None:
        target = placement.current_target()
        if target is None:
            launch(self, process_obj)
            return

        def start(fd: int | None) -> int:
            if fd is not None:
                placement.refuse_divided(fd)
                _launch.join = _JoinCgroup(syscalls.readlink(f"/proc/self/fd/{fd}"))
            try:
                launch(self, process_obj)
            finally:
                _launch.join = None
            return int(self.pid)

        placement.place(target, start, int)

    @functools.wraps(get_preparation_data)
    def preparation_data(name: str) -> dict[str, Any]:
        data: dict[str, Any] = get_preparation_data(name)
        if _launch.join is not None:
            # The worker unpickles the first item of the dictionary first.
            data = {"agentcgroup": _launch.join, **data}
        return data

    popen._launch = placed_launch
    spawn.get_preparation_data = preparation_data
