"""Which processes of a call are in the background, for the answer after its deadline."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from typing import Final

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
    table = {pid: found for pid in pids if (found := _stat(pid)) is not None}
    names = set()
    for pid, (parent, state, name) in table.items():
        if pid in workers:
            if state == "R":  # the body itself computes
                return None
            continue
        top = pid
        while parent in table and parent not in workers:
            top, parent = parent, table[parent][0]
        # As PID 1 of a container, this process becomes the parent of what others leave behind.
        if parent in workers or (parent == os.getpid() and (top in started or parent != 1)):
            return None
        names.add(name)
    return tuple(sorted(names)[:_NAMES]) or None


def _stat(pid: int) -> tuple[int, str, str] | None:
    """Return a process's parent, state and name; None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            before, _, after = file.read().rpartition(")")
    except OSError:
        return None
    state, parent, *_ = after.split()
    return int(parent), state, before.partition("(")[2]
