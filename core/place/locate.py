"""The cgroup of a process, as a path that can be opened here."""

from __future__ import annotations

import os
import time
from typing import Final

from agentcgroup.place.probe import probe
from agentcgroup.threads import sleep

__all__ = ["CgroupLocator"]

#: The kernel appends this to the path of a removed cgroup (kernel/cgroup/cgroup.c).
_DELETED: Final = " (deleted)"
#: Seconds that a fork may take from the moment its child is visible to the moment the child is in
#: its cgroup: microseconds of work, but the forking thread may wait for a CPU in between.
_BIRTH: Final = 2.0
#: The same where the kernel does not count run time (sched_info_on() of linux/sched/stat.h).
_BIRTH_UNSEEN: Final = 0.1


class CgroupLocator:
    """Finds the cgroups of processes; reads the mount of cgroup v2 once."""

    def __init__(self) -> None:
        self._mount = probe().mount
        self._root = "" if self._mount is None else self._mount.locate("/") or ""
        self._birth = _BIRTH if _has_run(os.getpid()) else _BIRTH_UNSEEN

    def of(self, pid: int) -> str | None:
        """Return the directory of a process's cgroup; a zombie still has one.

        "" for one that is not visible here; None when the process is gone, or its cgroup is.
        """
        try:
            with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
                lines = file.read().splitlines()
        except OSError:
            return None
        for line in lines:
            if line.startswith("0::") and self._mount is not None and not line.endswith(_DELETED):
                return self._mount.locate(line[3:]) or ""
        return None

    def of_newborn(self, pid: int) -> str | None:
        """As `of`, for a process whose fork may not be complete: waits for that.

        Until then its cgroup reads as the root: copy_process() in the kernel's fork.c notifies the
        process connector before it calls cgroup_post_fork(). A process that has run is complete.
        """
        deadline = time.monotonic() + self._birth
        while (path := self.of(pid)) in ("", self._root):
            if _has_run(pid) or time.monotonic() > deadline:
                return self.of(pid)  # `path` may have been read before the fork was complete
            sleep(0.0002)
        return path


def _has_run(pid: int) -> bool:
    """Return whether a process has run, by the third figure of its schedstat."""
    try:
        with open(f"/proc/{pid}/schedstat", "rb") as file:
            return file.read().split()[2] != b"0"
    except OSError:
        return True  # the process is gone
