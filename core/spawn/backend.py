"""The protocol of what creates a child in a cgroup: the C extension, or Python alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

from agentcgroup.spawn.spawn_request import SpawnRequest

__all__ = ["Backend", "ForkExec", "Mode"]

#: "clone3": born in the cgroup; "vfork", "fork": the child moves itself before anything else.
Mode = Literal["clone3", "vfork", "fork"]

#: `_posixsubprocess.fork_exec`, whose parameters differ between Python versions.
ForkExec = Callable[..., int]


class Backend(Protocol):
    """Creates children in a cgroup; raises PlacementError where the cgroup takes no process.

    `fd` is an open directory of the cgroup.
    """

    def mode(self) -> tuple[Mode, str | None]:
        """Return how children get into the cgroup, and why not by clone3 (None with "clone3")."""

    def builtin_like(
        self,
        original: Callable[..., Any],
        replacement: Callable[..., Any],
        get: Callable[[], Any],
    ) -> Callable[..., Any]:
        """Return what pickles and binds as the builtin `original`, and calls `replacement`.

        It may call `original` where `get()` is None.
        """

    def fork_exec(self, fd: int, args: tuple[Any, ...], original: ForkExec) -> int:
        """Do what `original(*args)` does, with the child in the cgroup; return the pid."""

    def posix_spawn(self, fd: int, request: SpawnRequest) -> int:
        """Do what os.posix_spawn does, with the child in the cgroup; return the pid."""

    def begin_system(self) -> int:
        """Do the first step of system(3), on signals; return this thread's former signal mask."""

    def end_system(self) -> None:
        """Undo the last `begin_system` of this thread; do nothing without one."""

    def start_shell(self, fd: int | None, command: bytes, mask: int) -> int:
        """Start the shell of os.system; return the pid.

        Without an `fd`, the shell starts in this process's cgroup. `begin_system` returned `mask`.
        """

    def wait(self, pid: int) -> int:
        """Wait for that shell, whatever signals arrive; return the wait status."""

    def set_fork_target(self, fd: int) -> None:
        """Place the child of every fork of this thread until `clear_fork_target`."""

    def refuse_forks(self) -> None:
        """Make every child that this thread forks exit with 126 until `clear_fork_target`."""

    def clear_fork_target(self) -> None:
        """Undo `set_fork_target` or `refuse_forks`; do nothing without either."""

    def after_fork_in_child(self) -> None:
        """Place a forked child where the fork itself did not."""
