"""The cpu controller: cpu.weight, cpu.max, cpu.stat (cgroup-v2.rst, "CPU")."""

from __future__ import annotations

from dataclasses import dataclass, field

from agentcgroup.cgroup import files
from agentcgroup.cgroup.files import Directory
from agentcgroup.cgroup.forms import CPU, MICROSECONDS, WEIGHT, Quantity
from agentcgroup.cgroup.limit import limit
from agentcgroup.cgroup.stats import flat

__all__ = ["CpuLimits", "stat"]


def _clear_burst(directory: Directory, limits: CpuLimits) -> None:
    """Take the old burst away before a new quota and burst are written.

    The kernel refuses a quota below the burst as well as a burst above the quota (EINVAL).
    """
    if limits.cpu_max_burst is not None:
        directory.write_optional(files.CPU_MAX_BURST, "0")


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class CpuLimits:
    """The limits of the cpu controller."""

    cpu_weight: int | None = field(
        default=None,
        metadata=limit(
            "cpu.weight",
            WEIGHT,
            "Share of contended CPU, 1 to 10000",
            note="The kernel's default is 100.",
            example="100",
            trial=90,
        ),
    )
    cpu_max: tuple[Quantity, int] | None = field(
        default=None,
        metadata=limit(
            "cpu.max",
            CPU,
            "CPU bandwidth: percent of one CPU, or 'QUOTA PERIOD' in microseconds",
            example='"200%"',
            trial=(90_000, 100_000),
            prepare=_clear_burst,
        ),
    )
    cpu_max_burst: int | None = field(
        default=None,
        metadata=limit(
            files.CPU_MAX_BURST,
            MICROSECONDS,
            "Microseconds of unused CPU quota that may be saved up",
            example="50000",
            since="5.14",
        ),
    )


def stat(directory: Directory) -> dict[str, int]:
    """Return cpu.stat: usage_usec always, nr_throttled and throttled_usec with the controller."""
    text = directory.read_optional(files.CPU_STAT)
    return {} if text is None else flat(text)
