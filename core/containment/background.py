"""Which processes of a call are in the background, for the answer after its deadline."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from typing import Final

from agentcgroup.containment.process_tree import stat_of

__all__ = ["only_background"]

#: Processes that are looked at: the deadline of other calls waits meanwhile.
_MOST: Final = 200
#: Different names that are returned.
_NAMES: Final = 5


def only_background(
    pids: Sequence[int], *, started: Collection[int], workers: Collection[int]
) -> tuple[str, ...] | None:
    """Return the names of the processes of a call if all of them are in the background.

    A process is in the background when the process that has started it has ended, and it was not
    this process or a worker: a shell has left it behind with "&", or it is a daemon.

    Args:
        pids: the processes.
        started: those of them that this process has started itself.
        workers: those of them that run a tool's body.

    Returns:
        None where there is no process, too many of them, or one that is not in the background.
    """
    if not pids or len(pids) > _MOST:
        return None
    table = {pid: stat for pid in pids if (stat := stat_of(pid)) is not None}
    names = set()
    for pid, (parent, _, state, name) in table.items():
        if pid in workers:
            if state == "R":  # the body itself computes
                return None
            continue
        top = pid
        while parent in table and parent not in workers:
            top, parent = parent, table[parent].parent
        # As PID 1 of a container, this process becomes the parent of what others leave behind.
        if parent in workers or (parent == os.getpid() and (top in started or parent != 1)):
            return None
        names.add(name)
    return tuple(sorted(names)[:_NAMES]) or None
