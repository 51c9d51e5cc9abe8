"""What a source of kernel events gives to the helper, whichever kernel interface it uses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol

__all__ = ["KernelEvent", "Kind", "MachineWideSource", "Source", "Unavailable"]


class Unavailable(Exception):
    """Raised when a source does not work on this machine or with these rights.

    Attributes:
        reason: why not.
        fix: what would change it, None where nothing would.
    """

    def __init__(self, reason: str, fix: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.fix = fix


Kind = Literal["fork", "outside", "exec", "exit", "moved", "oom", "lost"]


class KernelEvent(NamedTuple):
    """One event of a process, as the source reports it; threads have no events.

    Attributes:
        kind: "fork"; "outside", a fork whose child is not in the cgroup of its call; "exec";
            "exit"; "moved", the process left the cgroup of its call; "oom", the OOM killer chose
            the process; or "lost", an unknown number of events is missing.
        time: seconds of CLOCK_MONOTONIC.
        pid: the process; the child in a fork.
        parent: in a fork the process that forked.
        thread: in a fork the thread that forked, 0 where the source does not report it.
        thread_slot: number of that thread's slot on the `thread_board`, None where the source does
            not report it.
        status: at the exit the wait status (wait(2)).
        program: in an exec the path of the program, None where the source does not report it.
        entry: id of the followed cgroup of the process' call; 0 for none, None where the source
            does not report it.
        cgroup: id of the cgroup that the process is in, None where the source does not report it.
        stopped: the process is stopped (SIGSTOP) until the helper sends SIGCONT.
    """

    kind: Kind
    time: float
    pid: int = 0
    parent: int = 0
    thread: int = 0
    thread_slot: int | None = None
    status: int = 0
    program: str | None = None
    entry: int | None = None
    cgroup: int | None = None
    stopped: bool = False


class Source(Protocol):
    """Where kernel events come from.

    Attributes:
        name: as in the configuration.
        fd: readable when there are events that the helper should act upon.
        needs_sweeps: the source does not report "moved"; the helper has to look at each member's
            cgroup from time to time.
        missing: counters that the source should have and does not have here, and why.
    """

    name: str
    fd: int
    needs_sweeps: bool
    missing: Mapping[str, str]

    def read(self) -> Iterable[KernelEvent]:
        """Return the events since the last call and until now, in order; never waits.

        The source looks up the cgroups that it follows while the result is iterated over.
        """

    def follow_run(self, run: str) -> None:
        """Follow the cgroup of the run, by path, and all cgroups below it."""

    def add(self, cgroup: int, slot: int = 0) -> None:
        """Follow a call's cgroup and all below it, by id.

        With a counter `slot` the app has registered the cgroup with the kernel already.
        """

    def remove(self, cgroup: int) -> None:
        """Stop following a cgroup."""

    def counters(self, cgroup: int, *, living: bool) -> Mapping[str, int | None]:
        """Return the kernel's counters of a cgroup, by the names of `bpf.Counters`.

        With `living` they include what living processes have used up to this moment, else only
        what was counted when a process ended or moved.
        """

    def for_app(self) -> tuple[Sequence[int], Sequence[int]]:
        """Return the counter slots and the descriptors that the app gets (see `bpf.AppSlots`)."""

    def close(self) -> None:
        """Detach from the kernel and close every descriptor."""


class MachineWideSource:
    """Base of sources that report every process on the machine, and count nothing.

    The ledger finds out which process belongs to which call, and the helper sweeps for moves.
    """

    needs_sweeps = True
    missing: Mapping[str, str] = MappingProxyType({})

    def follow_run(self, run: str) -> None:
        """Do nothing: the source reports the run like everything else."""

    def add(self, cgroup: int, slot: int = 0) -> None:
        """Do nothing, as `follow_run`."""

    def remove(self, cgroup: int) -> None:
        """Do nothing, as `follow_run`."""

    def counters(self, cgroup: int, *, living: bool) -> Mapping[str, int | None]:  # noqa: ARG002
        """Return no counters."""
        return {}

    def for_app(self) -> tuple[Sequence[int], Sequence[int]]:
        """Return nothing: the fork event has the thread."""
        return (), ()
