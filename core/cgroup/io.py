"""The io controller: io.weight, io.max, io.stat (cgroup-v2.rst, "IO")."""

from __future__ import annotations

from agentcgroup.cgroup import files
from agentcgroup.cgroup.files import Directory
from agentcgroup.cgroup.limits import Limits
from agentcgroup.cgroup.stats import nested

__all__ = ["totals", "write"]


def write(directory: Directory, limits: Limits) -> list[str]:
    """Write what is set; return the keys that this kernel or this cgroup has no file for.

    Raises:
        OSError: ENODEV where io_max names a device that is not there.
    """
    missing = []
    if limits.io_weight is not None and not directory.write_optional(
        files.IO_WEIGHT, f"default {limits.io_weight}"
    ):
        missing.append("io_weight")
    for device, wish in (limits.io_max or {}).items():
        pairs = " ".join(f"{key}={value}" for key, value in wish.items())
        if not directory.write_optional(files.IO_MAX, f"{device} {pairs}"):
            missing.append("io_max")
            break
    return missing


def totals(directory: Directory) -> tuple[int, int] | None:
    """Return (bytes read, bytes written) over all devices, None without the controller."""
    text = directory.read_optional(files.IO_STAT)
    if text is None:
        return None
    devices = nested(text).values()
    return (
        sum(int(device.get("rbytes", 0)) for device in devices),
        sum(int(device.get("wbytes", 0)) for device in devices),
    )
