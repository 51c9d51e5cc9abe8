"""What a source of kernel events gives to the books, whichever way it has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

__all__ = ["Raw", "Source", "Unavailable"]


class Unavailable(Exception):
    """A source cannot be had here.

    Attributes:
        reason: why not.
        fix: what would change it, None where nothing would.
    """

    def __init__(self, reason: str, fix: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.fix = fix


class Raw(NamedTuple):
    """One event of a process, as the kernel told it; threads have none.

    Attributes:
        kind: "fork", "exec", "exit", "oom" (it was chosen by the OOM killer), "moved" (it entered a
            cgroup), or "lost" (an unknown number of events).
        time: seconds of CLOCK_MONOTONIC.
        pid: the process; the child in a fork.
        parent: in a fork the process that made it.
        thread: in a fork the thread that made it.
        status: at the exit the wait status (wait(2)).
        program: in an exec the path of the program, where the source has it.
        cgroup: id of the process's cgroup, where the source has it.
    """

    kind: Literal["fork", "exec", "exit", "oom", "moved", "lost"]
    time: float
    pid: int = 0
    parent: int = 0
    thread: int = 0
    status: int = 0
    program: str | None = None
    cgroup: int | None = None


class Source(Protocol):
    """Where events come from.

    Attributes:
        name: as in the configuration.
        fd: readable when there are events.
        stops: a child that was born outside stands still (SIGSTOP) until it is let go (SIGCONT).
    """

    name: str
    fd: int
    stops: bool

    def read(self) -> Sequence[Raw]:
        """Return what has happened since the last time, in order; never waits."""

    def add(self, cgroup: int) -> None:
        """Follow a cgroup and all below it, by id."""

    def remove(self, cgroup: int) -> None:
        """Stop following it."""

    def counters(self, cgroup: int) -> Mapping[str, int]:
        """Return what the kernel itself has counted for it, by the names of `CallRecord`, in ns."""

    def close(self) -> None:
        """Let go of everything in the kernel."""
