"""What the monitor uses of a call, written here so that it imports nothing that stands above it."""

from __future__ import annotations

from typing import Protocol

from agentcgroup.cgroup import Cgroup

__all__ = ["WatchedCall"]


class WatchedCall(Protocol):
    """A call that the monitor watches; `calls.Call` implements it."""

    @property
    def number(self) -> int:
        """The call's number in its session, from 1."""

    @property
    def id(self) -> str:
        """The call's id in its record."""

    def stop(self, reason: str) -> None:
        """End every process of the call; `reason` is the one in its record."""

    def adopt(self, pid: int) -> Cgroup | None:
        """Move a process of the call, born outside, into the call's cgroup.

        Returns the cgroup, made if need be; None when the call is over.
        """

    def note_charged(self, charged: int) -> None:
        """Add bytes of memory that were charged to a thread while it worked for the call."""
