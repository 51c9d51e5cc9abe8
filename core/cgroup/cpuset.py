"""The cpuset controller: cpuset.cpus, cpuset.mems (cgroup-v2.rst, "Cpuset")."""

from __future__ import annotations

from dataclasses import dataclass, field

from agentcgroup.cgroup.forms import ID_LIST
from agentcgroup.cgroup.limit import limit

__all__ = ["CpusetLimits"]


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class CpusetLimits:
    """The limits of the cpuset controller.

    The kernel takes a list wider than the parent's and narrows it (cpuset.cpus.effective).
    """

    cpuset_cpus: str | None = field(
        default=None,
        metadata=limit("cpuset.cpus", ID_LIST, "CPUs to run on, such as '0-3,8'", example='"0-3"'),
    )
    cpuset_mems: str | None = field(
        default=None,
        metadata=limit("cpuset.mems", ID_LIST, "Memory nodes to allocate from", example='"0"'),
    )
