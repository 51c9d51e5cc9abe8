"""The current call: one ContextVar, and its way across threads.

Stands below everything that runs calls: it knows only what `spawn` needs of one.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Protocol

__all__ = ["Home", "agent", "current", "started"]


class Home(Protocol):
    """Where a child process of the running call belongs; `session.Call` is the real one."""

    def begin_spawn(self, failed: OSError | None = None) -> int | None:
        """Return a directory fd of the cgroup the next child is to be born in.

        None means: do not place it. Makes the cgroup at the first child. The fd stays open until
        the matching `end_spawn`. `failed` is the error of an attempt just made with the fd
        returned before (the cgroup was removed, or now has children of its own).

        Raises:
            LimitExceeded: the call is over (timed out, cancelled); no child may start in it.
            CgroupUnavailable: the cgroup cannot be made and the policy says to refuse.
        """

    def end_spawn(self, pid: int | None) -> None:
        """Say that the spawn is done: `pid` of the child, None when there is none."""


#: The call whose code is running in this context, or None.
current: ContextVar[Home | None] = ContextVar("agentcgroup_call", default=None)

#: The agent named by `agentcgroup.agent`, or None.
agent: ContextVar[Any] = ContextVar("agentcgroup_agent", default=None)

#: Where calls started from here are noted, so that a cancellation reaches those in threads.
started: ContextVar[list[Any] | None] = ContextVar("agentcgroup_started", default=None)
