"""The table of limits, and the value class made of it: what to write into one cgroup."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final

from agentcgroup.cgroup.cpu import CpuLimits
from agentcgroup.cgroup.cpuset import CpusetLimits
from agentcgroup.cgroup.files import Directory
from agentcgroup.cgroup.forms import MAX, Quantity
from agentcgroup.cgroup.io import IoLimits
from agentcgroup.cgroup.limit import Limit
from agentcgroup.cgroup.memory import MemoryLimits
from agentcgroup.cgroup.pids import PidsLimits

__all__ = ["CONTROLLERS", "LIMITS", "MAX", "Limits", "Quantity", "controller_of", "write"]


# A dataclass has the fields of its last base first.
@dataclass(frozen=True, slots=True, kw_only=True)
class Limits(CpusetLimits, IoLimits, PidsLimits, CpuLimits, MemoryLimits):
    """What to write into one cgroup; a field that is None is not written.

    Every name is the kernel's file name with '_' for '.'. A `Limits` is hashable: cgroups that are
    made ahead of need are kept by their limits.
    """


#: The rows, by key, in the order in which they are shown.
LIMITS: Final[Mapping[str, Limit]] = {
    field.name: field.metadata["limit"] for field in fields(Limits)
}
#: The controllers that have rows, in the order in which they are written.
CONTROLLERS: Final = tuple(dict.fromkeys(row.controller for row in LIMITS.values()))

_IN_ORDER: Final = tuple(
    sorted(LIMITS.items(), key=lambda item: (CONTROLLERS.index(item[1].controller), item[1].rank))
)


def controller_of(key: str) -> str:
    """Return the controller of a limit, such as "memory"."""
    return LIMITS[key].controller


def write(directory: Directory, limits: Limits) -> list[str]:
    """Write the limits that are set.

    Returns:
        The keys that do not hold because this kernel or this cgroup lacks the file.

    Raises:
        OSError: the kernel refused a value.
    """
    missing = []
    for key, row in _IN_ORDER:
        value = getattr(limits, key)
        if value is not None and not row.write(directory, value, limits):
            missing.append(key)
    return missing
