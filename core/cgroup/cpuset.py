"""The cpuset controller: cpuset.cpus, cpuset.mems (cgroup-v2.rst, "Cpuset")."""

from __future__ import annotations

from agentcgroup.cgroup import files
from agentcgroup.cgroup.files import Directory
from agentcgroup.cgroup.limits import Limits

__all__ = ["write"]


def write(directory: Directory, limits: Limits) -> list[str]:
    """Write what is set; return the keys that this kernel or this cgroup has no file for.

    A list wider than the parent's is accepted and narrowed (cpuset.cpus.effective).
    """
    missing = []
    if limits.cpuset_cpus is not None and not directory.write_optional(
        files.CPUSET_CPUS, limits.cpuset_cpus
    ):
        missing.append("cpuset_cpus")
    if limits.cpuset_mems is not None and not directory.write_optional(
        files.CPUSET_MEMS, limits.cpuset_mems
    ):
        missing.append("cpuset_mems")
    return missing
