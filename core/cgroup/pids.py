"""The pids controller: pids.max, pids.peak, pids.events (cgroup-v2.rst, "PID")."""

from __future__ import annotations

from agentcgroup.cgroup import files
from agentcgroup.cgroup.files import Directory
from agentcgroup.cgroup.limits import MAX, Limits
from agentcgroup.cgroup.stats import flat

__all__ = ["peak", "refused", "write"]


def write(directory: Directory, limits: Limits) -> list[str]:
    """Write what is set; return the keys that this kernel or this cgroup has no file for."""
    value = limits.pids_max
    if value is None or directory.write_optional(files.PIDS_MAX, str(value)) or value == MAX:
        return []
    return ["pids_max"]


def peak(directory: Directory) -> int | None:
    """Return the most tasks at one time, None before 6.1 or without the controller."""
    text = directory.read_optional(files.PIDS_PEAK)
    return None if text is None else int(text)


def refused(directory: Directory) -> int | None:
    """Return how many forks were refused for want of a pid.

    Since 6.11 `max` of pids.events.local counts how often this cgroup's own pids.max was hit.
    Before, there is no local file, and `max` of pids.events counts the forks that failed in this
    cgroup, whichever ancestor's limit it was.
    """
    text = directory.read_optional(files.PIDS_EVENTS_LOCAL)
    if text is None:
        text = directory.read_optional(files.PIDS_EVENTS)
    return None if text is None else flat(text).get("max")
