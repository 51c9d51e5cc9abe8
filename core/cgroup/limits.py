"""The table of limits, and the value class made of it: what to write into one cgroup."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
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

    Every name but `unified` is the kernel's file name with '_' for '.'. A `Limits` is hashable:
    cgroups that are made ahead of need are kept by their limits.

    Attributes:
        unified: the texts to write into further files, by the names of the files (`unified`).
    """

    unified: Mapping[str, str] | None = field(default=None, hash=False)


#: The rows, by key, in the order in which they are shown.
LIMITS: Final[Mapping[str, Limit]] = {
    field.name: field.metadata["limit"] for field in fields(Limits) if "limit" in field.metadata
}
#: The controllers that have rows, in the order in which they are written.
CONTROLLERS: Final = tuple(dict.fromkeys(row.controller for row in LIMITS.values()))

#: Errors that the next write would meet, too.
_NOT_ABOUT_THE_VALUE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})

_IN_ORDER: Final = tuple(
    sorted(LIMITS.items(), key=lambda item: (CONTROLLERS.index(item[1].controller), item[1].rank))
)


def controller_of(key: str) -> str:
    """Return the controller, such as "memory", of a key: of a row, or a file of `unified`."""
    row = LIMITS.get(key)
    return key.partition(".")[0] if row is None else row.controller


def write(directory: Directory, limits: Limits) -> dict[str, OSError | None]:
    """Write the limits that are set, each for itself.

    Returns:
        The limits that do not hold, by key or by name of a file of `unified`: with the error where
        the kernel refused the value, None where this kernel or this cgroup lacks the file.

    Raises:
        OSError: no file can be opened, for want of descriptors or memory.
    """
    unmet: dict[str, OSError | None] = {}
    for key, row in _IN_ORDER:
        value = getattr(limits, key)
        if value is not None:
            try:
                if not row.write(directory, value, limits):
                    unmet[key] = None
            except OSError as error:
                unmet[key] = _refused(error)
    if limits.unified is not None:
        for file, data in limits.unified.items():
            try:
                if not directory.write_optional(file, data):
                    unmet[file] = None
            except OSError as error:
                unmet[file] = _refused(error)
    return unmet


def _refused(error: OSError) -> OSError:
    """Return the error if it is about the value; raise it if no limit could be written."""
    if error.errno in _NOT_ABOUT_THE_VALUE:
        raise error
    return error
