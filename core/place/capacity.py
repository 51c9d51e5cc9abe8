"""How much memory there is to share out: the machine's, or what a cgroup above leaves of it."""

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
    """Return the bytes that this process and its children can have at the most.

    That is the machine's memory, or the tightest memory.max from this process's cgroup upwards, as
    far as it can be seen: a container sees its own limit but not those above it.
    """
    most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if sys.platform != "linux":
        return most
    # Without /proc, or where a cgroup goes away under the look at it, the machine's will do.
    with contextlib.suppress(OSError):
        facts = probe()
        path = facts.own_path
        while path is not None and facts.mount is not None and len(path) >= len(facts.mount.point):
            with contextlib.closing(Directory.open(path)) as directory:
                limit = (directory.read_optional(files.MEMORY_MAX) or MAX).strip()
            if limit != MAX:
                most = min(most, int(limit))
            path = os.path.dirname(path)
    return most
