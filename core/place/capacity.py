"""The memory of the machine, or of the cgroups that this process is in."""

from __future__ import annotations

import contextlib
import os
import sys

from agentcgroup.cgroup import files
from agentcgroup.cgroup.files import Directory
from agentcgroup.cgroup.limits import MAX
from agentcgroup.place.probe import probe

__all__ = ["memory"]


def memory() -> int:
    """Return the most bytes that this process and its children can have.

    That is the machine's memory, or the lowest memory.max of this process's cgroup and those above
    it. A container sees its own limit but not those above it.
    """
    most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if sys.platform != "linux":
        return most
    # Without /proc, or where a cgroup is removed meanwhile, the machine's memory is the answer.
    with contextlib.suppress(OSError):
        host = probe()
        path = host.own_path
        while path is not None and host.mount is not None and len(path) >= len(host.mount.point):
            with contextlib.closing(Directory.open(path)) as directory:
                limit = (directory.read_optional(files.MEMORY_MAX) or MAX).strip()
            if limit != MAX:
                most = min(most, int(limit))
            path = os.path.dirname(path)
    return most
