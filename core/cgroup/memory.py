"""The memory controller: memory.* (Documentation/admin-guide/cgroup-v2.rst, "Memory")."""

from __future__ import annotations

from dataclasses import dataclass, field

from agentcgroup import syscalls
from agentcgroup.cgroup import files
from agentcgroup.cgroup.files import Directory
from agentcgroup.cgroup.forms import FLAG, MEMORY, MEMORY_BOUND, Quantity
from agentcgroup.cgroup.limit import limit
from agentcgroup.cgroup.stats import flat

__all__ = ["MemoryLimits", "events", "local_events", "peak"]


def _no_swap(directory: Directory) -> bool:
    """Return whether the machine has no swap, so that a bound on swap holds without its file.

    Without the controller nothing holds.
    """
    if not directory.has(files.MEMORY_MAX):
        return False
    try:
        # The first line is the heading.
        return len(syscalls.read_file("/proc/swaps").splitlines()) <= 1
    except FileNotFoundError:  # a kernel without swap
        return True


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class MemoryLimits:
    """The limits of the memory controller.

    memory.max is written last: lowered below what is in use it OOM-kills at once. By then
    memory.high has reclaimed what can be reclaimed, swap is bounded, and memory.oom.group makes the
    kill take the group where it should.
    """

    memory_min: Quantity | None = field(
        default=None,
        metadata=limit(
            "memory.min", MEMORY, "Bytes of memory that are never reclaimed", example='"64M"'
        ),
    )
    memory_low: Quantity | None = field(
        default=None,
        metadata=limit(
            "memory.low", MEMORY, "Bytes of memory that are reclaimed last", example='"128M"'
        ),
    )
    memory_high: Quantity | None = field(
        default=None,
        metadata=limit(
            "memory.high",
            MEMORY_BOUND,
            "Bytes of memory above which the kernel slows down and reclaims",
            note=("Needs memory_max or a timeout beside it: alone it turns a failure into a hang."),
            example='"768M"',
            trial=192 << 20,
            rank=1,
        ),
    )
    memory_max: Quantity | None = field(
        default=None,
        metadata=limit(
            files.MEMORY_MAX,
            MEMORY_BOUND,
            "Bytes of memory above which the kernel kills",
            note="A percentage is of the machine's memory, or of the container's.",
            example='"1G"',
            trial=256 << 20,
            rank=3,
        ),
    )
    memory_swap_max: Quantity | None = field(
        default=None,
        metadata=limit(
            "memory.swap.max",
            MEMORY,
            "Bytes of swap",
            note=(
                "Default: 0 wherever memory_max is a number, "
                "which would be no bound on a machine with swap otherwise."
            ),
            example='"1G"',
            trial=0,
            absent="this kernel does not account swap, so a call may pass memory_max by swapping.",
            remedy="boot with swapaccount=1, or turn swap off.",
            rank=2,
            holds_anyway=_no_swap,
        ),
    )
    memory_oom_group: bool | None = field(
        default=None,
        metadata=limit(
            "memory.oom.group",
            FLAG,
            "On OOM kill everything in the cgroup, not one process",
            example="true",
            trial=True,
            since="4.19",
        ),
    )


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
