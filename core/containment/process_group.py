"""What a call's processes are held in: a cgroup, or a list of pids where there is no cgroup."""

from __future__ import annotations

from typing import Protocol

from agentcgroup.cgroup import Events, Usage

__all__ = ["ProcessGroup"]


class ProcessGroup(Protocol):
    """The operations that `cgroup.Cgroup` and `process_tree.ProcessTree` have in common."""

    @property
    def fd(self) -> int | None:
        """Descriptor of the directory that a child can be born in; None: there is no directory."""

    def note_child(self, pid: int) -> None:
        """Take note of a child that was started for this group."""

    def join(self, pid: int) -> None:
        """Bring a running process into this group.

        Raises:
            OSError: the process cannot be moved; ESRCH when it is gone.
        """

    def procs(self) -> list[int]:
        """Return the pids of the processes right in this group."""

    def all_procs(self) -> list[int]:
        """Return the pids of the processes in this group and below it."""

    def populated(self) -> bool:
        """Return whether a live process is in this group or below it."""

    def wait_empty(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until no live process is left; return whether none is."""

    def kill(self) -> None:
        """Send SIGKILL to every process in this group and below it."""

    def events(self) -> Events:
        """Return what the kernel counted against this group."""

    def usage(self) -> Usage:
        """Return what the processes of this group have used."""

    def remove(self) -> None:
        """Kill the processes and remove the group.

        Raises:
            OSError: EBUSY when processes do not die.
        """

    def close(self) -> None:
        """Close the descriptors of the group."""
