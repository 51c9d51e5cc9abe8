"""What `containment` asks of a call; `calls.contained.ContainedCall` implements the protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from agentcgroup.cgroup import Cgroup
from agentcgroup.containment.process_group import ProcessGroup
from agentcgroup.containment.tree import Branch

__all__ = ["NoWorker", "Owner"]


class NoWorker(OSError):
    """No worker process can be made; the cgroup for it can."""


class Owner(Protocol):
    """What a `CallCgroup` asks of the call whose processes it holds."""

    @property
    def stopped(self) -> str | None:
        """The reason for which the call was stopped; None while it was not."""

    @property
    def outlived(self) -> bool:
        """Whether the call has ended well, so that what still runs belongs to the run."""

    def refuse_if_over(self) -> None:
        """Let no process start in a call that is over.

        Raises:
            LimitExceeded: the call was stopped, or its deadline has passed.
        """

    def background_fd(self) -> int | None:
        """Return the directory fd of the cgroup for processes of no running call."""

    def background(self) -> Cgroup | None:
        """Return the cgroup for processes that outlive the calls of the agent.

        Raises:
            OSError: it cannot be made.
        """

    def release_helpers(self) -> set[int]:
        """Return the processes of pools that the app holds; the call does not own them any more."""

    def keep_maintenance(self, group: ProcessGroup) -> bool:
        """Take maintenance that goes on after the call out of its group; return whether there is.

        It ends by itself, or after a time.
        """

    def note_leftovers(self, pids: Iterable[int]) -> None:
        """Take note that processes which the tool left running are to be ended."""

    def before_cgroup(self) -> None:
        """Prepare for the first process: its deadline starts before the process does."""

    def locate(self) -> tuple[Branch | None, bool]:
        """Return the branch to take a cgroup from, and whether it is an agent's branch.

        An agent's branch counts its running calls: the owner calls its `leave` at the end.

        Raises:
            OSError: the branch cannot be made.
        """

    def contained(self, cgroup: Cgroup) -> None:
        """Take note that the call has a cgroup now."""

    def forget_removed(self) -> None:
        """Forget cgroups above that another program, or the end of a call above, has removed."""

    def uncontained(self, error: OSError) -> None:
        """Take note that the call can have no cgroup.

        Raises:
            CgroupUnavailable: it is refused.
        """

    def released(self, cgroup: Cgroup) -> None:
        """Take note that the processes in `cgroup` leave it for the agent's background."""

    def idle_tenants(self) -> frozenset[int] | None:
        """Return the pids of workers in the cgroup that have answered; None: it holds no worker."""

    def before_kill(self, kill: Callable[[], None]) -> None:
        """Have `kill` called again for a worker that is still to be born in the cgroup."""

    def calls_follow(self) -> bool:
        """Return whether calls come one upon the other, so that no idle moment is near."""

    def prepare(self, branch: Branch) -> None:
        """Make what the next call with the same limits will need, ahead of it."""
