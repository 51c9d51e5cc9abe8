"""Whether a cgroup is divided: has cgroups below it, or controllers on for them.

Container engines and systemd divide the cgroup that they start in: they move their processes into
a cgroup below it and turn controllers on. The kernel then lets no process into the cgroup itself
(cgroup-v2.rst, "No Internal Process Constraint").
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

from agentcgroup import syscalls
from agentcgroup.cgroup import files
from agentcgroup.cgroup.files import Directory

__all__ = ["has_children", "pids_below", "takes_no_process"]

#: Links of a directory without children; kernfs counts one more for each child.
_LINKS: Final = 2
#: Bytes; the two files that are read hold a few words.
_READ_SIZE: Final = 4096


def has_children(fd: int) -> bool:
    """Return whether there are cgroups below the one whose directory `fd` is.

    One system call, of less than a microsecond. False too when the cgroup is gone.
    """
    try:
        return os.fstat(fd).st_nlink > _LINKS
    except OSError:
        return False


def takes_no_process(fd: int) -> bool:
    """Return whether controllers are on below the cgroup, so that a birth in it fails with EBUSY.

    False too when the cgroup is gone, and in threaded cgroups, which have no such rule.
    """
    divided = has_children(fd) and bool(_read(fd, files.SUBTREE_CONTROL))
    return divided and "threaded" not in _read(fd, files.TYPE)


def pids_below(directory: Directory) -> list[int]:
    """Return the pids in the cgroups below one, at any depth."""
    found: list[int] = []
    for path in directory.descendants() if has_children(directory.fd) else ():
        # A cgroup may be gone by now, or threaded: then one above it lists its processes.
        with contextlib.suppress(OSError), contextlib.closing(Directory.open(path)) as one:
            found += map(int, one.read(files.PROCS).split())
    return found


def _read(fd: int, file: str) -> str:
    try:
        opened = syscalls.open(file, os.O_RDONLY, dir_fd=fd)
        try:
            return syscalls.read(opened, _READ_SIZE).decode("ascii").strip()
        finally:
            syscalls.close(opened)
    except OSError:
        return ""
