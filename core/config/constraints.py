"""Values that cannot hold together: memory_high above memory_max, a memory_high that never ends."""

from __future__ import annotations

from agentcgroup.cgroup.forms import MAX, Quantity

__all__ = ["ALONE", "ORDERED_PAIRS", "is_above", "would_hang"]

#: Pairs of keys the first of which must not be above the second.
ORDERED_PAIRS = (
    ("memory_high", "memory_max"),
    ("memory_low", "memory_high"),
    ("memory_low", "memory_max"),
    ("memory_min", "memory_high"),
    ("memory_min", "memory_max"),
)

#: The error about a memory_high that no other limit ends.
ALONE = (
    "memory_high alone slows a process down more and more but never ends it: "
    "add memory_max or a timeout"
)


def is_above(value: Quantity | None, bound: Quantity | None) -> bool:
    """Compare two bounds where both are numbers; "max" is no bound, which fits every other."""
    return isinstance(value, int) and isinstance(bound, int) and value > bound


def would_hang(memory_high: object, memory_max: object, timeout: object) -> bool:
    """Return whether memory.high would stand alone.

    The kernel then slows an allocation down more and more but never ends it: a process over its
    memory.high has been seen to run on for minutes without progress.
    """
    return memory_high not in (None, MAX) and memory_max in (None, MAX) and timeout is None
