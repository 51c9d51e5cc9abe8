"""The memory controller: memory.* (Documentation/admin-guide/cgroup-v2.rst, "Memory")."""

from __future__ import annotations

from typing import Final

from agentcgroup.cgroup import files
from agentcgroup.cgroup.files import Directory
from agentcgroup.cgroup.limits import MAX, Limits
from agentcgroup.cgroup.stats import flat

__all__ = ["events", "local_events", "peak", "write"]

# memory.max last: lowered below what is in use it OOM-kills at once. By then memory.high has
# reclaimed what can be reclaimed, swap is bounded, and the kill takes the group where it should.
_ORDER: Final = (
    ("memory_min", files.MEMORY_MIN),
    ("memory_low", files.MEMORY_LOW),
    ("memory_oom_group", files.MEMORY_OOM_GROUP),
    ("memory_high", files.MEMORY_HIGH),
    ("memory_swap_max", files.MEMORY_SWAP_MAX),
    ("memory_max", files.MEMORY_MAX),
)


def write(directory: Directory, limits: Limits) -> list[str]:
    """Write what is set; return the keys that this kernel or this cgroup has no file for."""
    missing = []
    for key, file in _ORDER:
        value = getattr(limits, key)
        if value is None:
            continue
        data = str(int(value)) if isinstance(value, bool) else str(value)
        if not directory.write_optional(file, data) and not _satisfied_without(
            directory, key, value
        ):
            missing.append(key)
    return missing


def peak(directory: Directory) -> int | None:
    """Return the most bytes that were ever in use, None before 5.19 or without the controller."""
    text = directory.read_optional(files.MEMORY_PEAK)
    return None if text is None else int(text)


def events(directory: Directory) -> dict[str, int] | None:
    """Return the counters of this cgroup and everything below it."""
    text = directory.read_optional(files.MEMORY_EVENTS)
    return None if text is None else flat(text)


def local_events(directory: Directory) -> dict[str, int] | None:
    """Return the counters of this cgroup alone: its own limit, its own processes."""
    text = directory.read_optional(files.MEMORY_EVENTS_LOCAL)
    return None if text is None else flat(text)


def _satisfied_without(directory: Directory, key: str, value: object) -> bool:
    """Say whether a wish holds although its file is missing."""
    if value == MAX or value is False:
        return True
    # A bound on swap holds by itself where there is none; without the controller nothing holds.
    return key == "memory_swap_max" and directory.has(files.MEMORY_MAX) and not _machine_swaps()


def _machine_swaps() -> bool:
    try:
        with open("/proc/swaps", encoding="utf-8", errors="replace") as swaps:
            return len(swaps.readlines()) > 1  # the first line is the heading
    except FileNotFoundError:  # a kernel without swap
        return False
