"""The cpu controller: cpu.weight, cpu.max, cpu.stat (cgroup-v2.rst, "CPU")."""

from __future__ import annotations

from agentcgroup.cgroup import files
from agentcgroup.cgroup.files import Directory
from agentcgroup.cgroup.limits import Limits
from agentcgroup.cgroup.stats import flat

__all__ = ["stat", "write"]


def write(directory: Directory, limits: Limits) -> list[str]:
    """Write what is set; return the keys that this kernel or this cgroup has no file for."""
    missing = []
    if limits.cpu_weight is not None and not directory.write_optional(
        files.CPU_WEIGHT, str(limits.cpu_weight)
    ):
        missing.append("cpu_weight")
    burst = limits.cpu_max_burst
    if burst is not None and limits.cpu_max is not None:
        # The kernel refuses a quota below the burst as well as a burst above the quota (EINVAL),
        # so an old burst must not stand in the way of a new, smaller quota.
        directory.write_optional(files.CPU_MAX_BURST, "0")
    if limits.cpu_max is not None:
        quota, period = limits.cpu_max
        if not directory.write_optional(files.CPU_MAX, f"{quota} {period}"):
            missing.append("cpu_max")
    if burst is not None and not directory.write_optional(files.CPU_MAX_BURST, str(burst)):
        missing.append("cpu_max_burst")
    return missing


def stat(directory: Directory) -> dict[str, int]:
    """Return cpu.stat: usage_usec always, nr_throttled and throttled_usec with the controller."""
    text = directory.read_optional(files.CPU_STAT)
    return {} if text is None else flat(text)
