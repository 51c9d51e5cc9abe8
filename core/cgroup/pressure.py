"""Pressure stall information of a cgroup (Documentation/accounting/psi.rst)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from agentcgroup.cgroup.files import Directory
from agentcgroup.cgroup.stats import nested

__all__ = ["Pressure", "Resource", "parse", "read", "trigger"]

Resource = Literal["cpu", "memory", "io"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressure:
    """The share of time in which tasks of a cgroup waited for a resource.

    Attributes:
        some_avg10: percent of the last 10 seconds in which at least one task waited.
        some_total_s: seconds in which at least one task waited, since the cgroup was made.
        full_avg10: percent of the last 10 seconds in which all tasks waited at once.
        full_total_s: seconds in which all tasks waited at once, since the cgroup was made.
    """

    some_avg10: float
    some_total_s: float
    full_avg10: float | None
    full_total_s: float | None


def read(directory: Directory, resource: Resource) -> Pressure | None:
    """Return the pressure on one resource, None where the kernel does not account it."""
    text = directory.read_optional(f"{resource}.pressure")
    return None if text is None else parse(text)


def parse(text: str) -> Pressure:
    """Parse one pressure file; before 5.13 that of cpu has no `full` line."""
    lines = nested(text)
    some, full = lines["some"], lines.get("full")
    return Pressure(
        some_avg10=float(some["avg10"]),
        some_total_s=int(some["total"]) / 1e6,
        full_avg10=None if full is None else float(full["avg10"]),
        full_total_s=None if full is None else int(full["total"]) / 1e6,
    )


def trigger(directory: Directory, resource: Resource, *, stall_s: float, window_s: float) -> int:
    """Return a descriptor that poll(2) reports as POLLPRI at each window with so much stall.

    Args:
        directory: the cgroup.
        resource: the resource that its tasks wait for.
        stall_s: seconds of `some` stall within one window.
        window_s: 0.5 to 10 seconds; without CAP_SYS_RESOURCE a multiple of 2 (since 6.5).

    Raises:
        OSError: EINVAL for a window out of range, EOPNOTSUPP where pressure is not accounted.
    """
    return directory.watch(
        f"{resource}.pressure", f"some {int(stall_s * 1e6)} {int(window_s * 1e6)}\0"
    )
