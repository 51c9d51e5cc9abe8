"""The limits one cgroup can carry, in the kernel's own names with '_' for '.'."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["MAX", "Limits", "Quantity"]

MAX: Literal["max"] = "max"

#: A number in the unit of its file, or "max" for none. None in `Limits` means: leave it alone.
Quantity = int | Literal["max"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What to write into one cgroup; a field that is None is not written.

    Every name is the kernel's file name (Documentation/admin-guide/cgroup-v2.rst).

    Attributes:
        memory_min: bytes never reclaimed.
        memory_low: bytes reclaimed last.
        memory_high: bytes above which the kernel throttles and reclaims.
        memory_max: bytes above which the kernel OOM-kills.
        memory_swap_max: bytes of swap; without a bound here memory_max is none.
        memory_oom_group: kill the whole cgroup on OOM, not one process of it.
        cpu_weight: 1 to 10000, 100 is the kernel's default.
        cpu_max: (quota, period) in microseconds; a quota of "max" is none.
        cpu_max_burst: microseconds of unused quota that may be saved up.
        pids_max: tasks (processes and threads).
        io_weight: 1 to 10000.
        io_max: "MAJOR:MINOR" to {"rbps", "wbps", "riops", "wiops"} of bytes or operations a second.
        cpuset_cpus: CPU list such as "0-3,8".
        cpuset_mems: memory node list.
    """

    memory_min: Quantity | None = None
    memory_low: Quantity | None = None
    memory_high: Quantity | None = None
    memory_max: Quantity | None = None
    memory_swap_max: Quantity | None = None
    memory_oom_group: bool | None = None
    cpu_weight: int | None = None
    cpu_max: tuple[Quantity, int] | None = None
    cpu_max_burst: int | None = None
    pids_max: Quantity | None = None
    io_weight: int | None = None
    io_max: Mapping[str, Mapping[str, Quantity]] | None = field(default=None, hash=False)
    cpuset_cpus: str | None = None
    cpuset_mems: str | None = None
