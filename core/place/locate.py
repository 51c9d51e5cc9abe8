"""In which cgroup a process is, as a path that can be opened here."""

from __future__ import annotations

import os
import time
from typing import Final

from agentcgroup.place.probe import probe

__all__ = ["CgroupLocator"]

#: What the kernel writes behind the path of a cgroup that was removed (seq_puts of cgroup.c).
_DELETED: Final = " (deleted)"
#: Seconds that a fork may take from where its child can be seen to where it is in its cgroup: some
#: microseconds of work, but who forks may have to wait for a CPU in between.
_BIRTH: Final = 2.0
#: The same where the kernel does not say who has run (sched_info_on() of linux/sched/stat.h).
_BIRTH_UNSEEN: Final = 0.1


class CgroupLocator:
    """Finds processes; looks for the mount of cgroup v2 once."""

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
        """As `of`, for a process whose fork may not be done yet: waits for that.

        Until then its cgroup reads as the root: copy_process() in the kernel's fork.c tells the
        process connector before it calls cgroup_post_fork(). One that has run is born.
        """
        deadline = time.monotonic() + self._birth
        while (path := self.of(pid)) in ("", self._root):
            if _has_run(pid) or time.monotonic() > deadline:
                return self.of(pid)  # the path may be from before, however little there is between
            time.sleep(0.0002)
        return path


def _has_run(pid: int) -> bool:
    """Say whether a process has had a CPU, by the third figure of its schedstat."""
    try:
        with open(f"/proc/{pid}/schedstat", "rb") as file:
            return file.read().split()[2] != b"0"
    except OSError:
        return True  # it is gone
