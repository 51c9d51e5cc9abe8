"""What a source of kernel events gives to the books, whichever way it has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol

__all__ = ["Kind", "OfAll", "Raw", "Source", "Unavailable"]


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


Kind = Literal["fork", "outside", "exec", "exit", "moved", "oom", "lost"]


class Raw(NamedTuple):
    """One event of a process, as the kernel told it; threads have none.

    Attributes:
        kind: "fork"; "outside", a fork whose child is not in the cgroup that it belongs to;
            "exec"; "exit"; "moved", out of the cgroup that it belongs to; "oom", it was chosen by
            the OOM killer; or "lost", an unknown number of events.
        time: seconds of CLOCK_MONOTONIC.
        pid: the process; the child in a fork.
        parent: in a fork the process that made it.
        thread: in a fork the thread that made it, where the source has it.
        seat: number of the seat of that thread (see `board`), where the source has that.
        status: at the exit the wait status (wait(2)).
        program: in an exec the path of the program, where the source has it.
        home: id of the followed cgroup that it belongs to; 0 for none, None where the source cannot
            tell.
        cgroup: id of the cgroup that it is in, where the source has it.
        stopped: it stands still (SIGSTOP) until it is let go (SIGCONT).
    """

    kind: Kind
    time: float
    pid: int = 0
    parent: int = 0
    thread: int = 0
    seat: int | None = None
    status: int = 0
    program: str | None = None
    home: int | None = None
    cgroup: int | None = None
    stopped: bool = False


class Source(Protocol):
    """Where events come from.

    Attributes:
        name: as in the configuration.
        fd: readable when there are events that somebody should act upon.
        sweeps: it does not tell "moved", somebody has to look.
        missing: counters that it should have and has not here, and why.
    """

    name: str
    fd: int
    sweeps: bool
    missing: Mapping[str, str]

    def read(self) -> Iterable[Raw]:
        """Return what has happened since the last time and until now, in order; never waits.

        What is told by the cgroups that are followed is made out as it is iterated over.
        """

    def enroll(self, run: str) -> None:
        """Follow what is in the cgroup of the run, by path, and below it."""

    def add(self, cgroup: int, slot: int = 0) -> None:
        """Follow a call's cgroup and all below it, by id; with a `slot` the host does already."""

    def remove(self, cgroup: int) -> None:
        """Stop following it."""

    def counters(self, cgroup: int, *, living: bool) -> Mapping[str, int | None]:
        """Return what the kernel has counted for it, by the names of `bpf.Counters`.

        With `living` up to this moment, else up to the end of its processes.
        """

    def lent(self) -> tuple[Sequence[int], Sequence[int]]:
        """Return what is for the host (see `bpf.Lent`), to be sent to it: slots and descriptors."""

    def close(self) -> None:
        """Let go of everything in the kernel."""


class OfAll:
    """What is common to sources that tell of every process on the machine, and count nothing.

    Who is whose is for the books, and somebody has to look whether one has moved.
    """

    sweeps = True
    missing: Mapping[str, str] = MappingProxyType({})

    def enroll(self, run: str) -> None:
        """The run is told of like everything."""

    def add(self, cgroup: int, slot: int = 0) -> None:
        """As `enroll`."""

    def remove(self, cgroup: int) -> None:
        """As `enroll`."""

    def counters(self, cgroup: int, *, living: bool) -> Mapping[str, int | None]:  # noqa: ARG002
        """Return nothing."""
        return {}

    def lent(self) -> tuple[Sequence[int], Sequence[int]]:
        """Return nothing: the fork event has the thread."""
        return (), ()
