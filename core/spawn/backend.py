"""What starts a child in a cgroup: the C extension, or Python alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

from agentcgroup.spawn.arguments import SpawnRequest

__all__ = ["Backend", "ForkExec", "Mode"]

#: "clone3": born inside; "vfork", "fork": the child moves itself before anything else.
Mode = Literal["clone3", "vfork", "fork"]

#: `_posixsubprocess.fork_exec`, whose arguments differ from one Python to the next.
ForkExec = Callable[..., int]


class Backend(Protocol):
    """One way to start children; each raises PlacementError where the cgroup takes none.

    `fd` is always an open directory of a cgroup.
    """

    def mode(self) -> tuple[Mode, str | None]:
        """Return how children get there, and why not by clone3 (None if they do)."""

    def fork_exec(self, fd: int, args: tuple[Any, ...], original: ForkExec) -> int:
        """Do what `original(*args)` does, in the cgroup; return the pid."""

    def posix_spawn(self, fd: int, request: SpawnRequest) -> int:
        """Do os.posix_spawn; return the pid."""

    def hold_signals(self) -> int:
        """Do what system() does before its child; return what `release_signals` wants."""

    def release_signals(self, held: int) -> None:
        """Undo `hold_signals`."""

    def shell(self, fd: int | None, command: bytes, held: int) -> int:
        """Start the shell of os.system, in our own cgroup where `fd` is None; return the pid."""

    def wait(self, pid: int) -> int:
        """Wait for that shell through all signals; return the wait status."""

    def arm(self, fd: int) -> None:
        """Let every fork of this thread put its child into the cgroup until `disarm`."""

    def refuse(self) -> None:
        """Let every child that this thread forks exit at once with status 126 until `disarm`."""

    def disarm(self) -> None:
        """Undo `arm` or `refuse`; nothing where there is nothing to undo."""

    def after_fork_in_child(self) -> None:
        """Finish placing a forked child, where the fork itself could not."""
