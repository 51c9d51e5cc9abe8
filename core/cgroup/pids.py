"""The pids controller: pids.max, pids.peak, pids.events (cgroup-v2.rst, "PID")."""

from __future__ import annotations

from dataclasses import dataclass, field

from agentcgroup.cgroup import files
from agentcgroup.cgroup.files import Directory
from agentcgroup.cgroup.forms import COUNT, Quantity
from agentcgroup.cgroup.limit import limit
from agentcgroup.cgroup.stats import flat

__all__ = ["PidsLimits", "peak", "refused"]


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class PidsLimits:
    """The limits of the pids controller."""

    pids_max: Quantity | None = field(
        default=None,
        metadata=limit(
            "pids.max",
            COUNT,
            "Tasks, which are processes and threads",
            example="256",
            trial=64,
        ),
    )


def peak(directory: Directory) -> int | None:
    """Return the most tasks at one time, None before 6.1 or without the controller."""
    text = directory.read_optional(files.PIDS_PEAK)
    return None if text is None else int(text)


def refused(directory: Directory) -> int | None:
    """Return how many forks failed with EAGAIN because of pids.max.

    Since 6.11 `max` of pids.events.local counts how often this cgroup's own pids.max was hit.
    Before, there is no local file, and `max` of pids.events counts the forks that failed in this
    cgroup, whichever ancestor's limit it was.
    """
    text = directory.read_optional(files.PIDS_EVENTS_LOCAL)
    if text is None:
        text = directory.read_optional(files.PIDS_EVENTS)
    return None if text is None else flat(text).get("max")
