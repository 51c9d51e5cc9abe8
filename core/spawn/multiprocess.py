"""multiprocessing's helpers: daemons that must outlive the call that happens to start them.

The resource tracker and the fork server start at the first use and serve the whole process for
ever. Born in a call they would be killed with it, and the fork server would parent every later
worker inside a cgroup long gone. So they are started as if no call were running, and a worker
that the fork server makes for a call joins the call's cgroup itself, by the first thing it reads.
"""

from __future__ import annotations

import os
import threading
from types import FrameType, ModuleType
from typing import Any

from agentcgroup.spawn import placement

__all__ = ["join_from_fork_server", "starts_daemon"]

#: Modules that spawn nothing but such daemons.
_DAEMONS = frozenset(
    {
        "multiprocessing.forkserver",
        "multiprocessing.resource_tracker",
        "loky.backend.resource_tracker",
        "joblib.externals.loky.backend.resource_tracker",
    }
)


def starts_daemon(caller: FrameType | None) -> bool:
    """Return whether the frame that calls fork_exec does so to start one of the daemons.

    By who asks, not by the command line: that could be the text of a model.
    """
    # fork_exec <- multiprocessing.util.spawnv_passfds <- the daemon's module
    asker = caller.f_back if caller is not None else None
    return asker is not None and asker.f_globals.get("__name__") in _DAEMONS


class _Join:
    """Unpickles as `None`, having moved the process that unpickles it into the cgroup.

    Made of builtins, since the fork server need not be able to import this package.
    """

    def __init__(self, path: str) -> None:
        self._procs = f"{path}/cgroup.procs"

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("with open(procs, 'w') as file: file.write('0')", {"procs": self._procs})


class _Launch(threading.local):
    """The worker that this thread is about to ask the fork server for."""

    join: _Join | None = None


_launch = _Launch()


def join_from_fork_server(popen_forkserver: ModuleType) -> None:
    """Patch multiprocessing.popen_forkserver, when it is imported; once and for all."""
    popen = popen_forkserver.Popen
    spawn = popen_forkserver.spawn
    launch, get_preparation_data = popen._launch, spawn.get_preparation_data

    def placed_launch(self: Any, process_obj: Any) -> None:
        home = placement.home_of_spawn()
        if home is None:
            launch(self, process_obj)
            return

        def start(fd: int | None) -> int:
            if fd is not None:
                _launch.join = _Join(os.readlink(f"/proc/self/fd/{fd}"))
            try:
                launch(self, process_obj)
            finally:
                _launch.join = None
            return int(self.pid)

        placement.place(home, start, int)

    def preparation_data(name: str) -> dict[str, Any]:
        data: dict[str, Any] = get_preparation_data(name)
        if _launch.join is not None:
            # First in the dictionary is first to be unpickled.
            data = {"agentcgroup": _launch.join, **data}
        return data

    popen._launch = placed_launch
    spawn.get_preparation_data = preparation_data
