"""What happens to processes that outlive a call: they move to another cgroup, or are asked to end.

SIGTERM comes before SIGKILL. A program removes its lock files in a handler of SIGTERM. A lock that
stays breaks later calls: while `.git/gc.log.lock` is there, `git gc --auto` does nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from typing import Final

from agentcgroup.cgroup import Cgroup
from agentcgroup.containment.owner import Owner
from agentcgroup.containment.process_group import ProcessGroup
from agentcgroup.containment.process_tree import ProcessTree, stat_of

__all__ = ["leave_to_agent", "move_with_children", "terminate", "with_children"]

logger = logging.getLogger("agentcgroup")

#: Rounds in which processes are moved: they may fork meanwhile.
_MOVES: Final = 5


def terminate(group: ProcessGroup) -> None:
    """Send SIGTERM to every process in a group and below it.

    A stopped process is continued, since it would not handle the signal.
    """
    fds: dict[int, int] = {}
    try:
        for pid in group.all_procs():
            # Of another pid namespace (0), gone, refused, or no descriptor left: SIGKILL does it.
            with contextlib.suppress(OSError):
                fds[pid] = os.pidfd_open(pid)
        # A pid may be another process's by the time its descriptor is opened. One that is still in
        # the group is not.
        for pid in fds.keys() & set(group.all_procs()):
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(fds[pid], signal.SIGTERM)
                signal.pidfd_send_signal(fds[pid], signal.SIGCONT)
    finally:
        for fd in fds.values():
            os.close(fd)


def with_children(pids: set[int], members: list[int]) -> list[int]:
    """Return those of `members` that are among `pids`, or below one of them by parentage."""
    parents = {pid: stat.parent for pid in members if (stat := stat_of(pid)) is not None}
    found: list[int] = []
    wanted = set(pids)
    while more := [pid for pid, parent in parents.items() if pid in wanted or parent in wanted]:
        found += more
        wanted.update(more)
        for pid in more:
            del parents[pid]
    return found


def move_with_children(group: ProcessGroup, pids: set[int], target: Cgroup) -> None:
    """Move those of `pids` that are in a group, and what is below them, to another cgroup."""
    wanted = set(pids)
    for _ in range(_MOVES):
        left = with_children(wanted, group.all_procs())
        if not left:
            return
        wanted.update(left)  # what one of them forked before it was moved is still in the group
        for pid in left:
            with contextlib.suppress(OSError):  # one that cannot be moved is a leftover
                target.join(pid)


def leave_to_agent(owner: Owner, group: ProcessGroup, helpers: set[int]) -> None:
    """Leave the processes of pools that the app holds, with their children, to the agent."""
    if isinstance(group, ProcessTree):
        group.forget(with_children(helpers, group.all_procs()))
        return
    try:
        background = owner.background()
    except OSError as error:
        logger.warning("agentcgroup: the processes of a pool end with a call: %s", error)
        return
    if background is not None and isinstance(group, Cgroup):
        owner.released(group)
        move_with_children(group, helpers, background)
