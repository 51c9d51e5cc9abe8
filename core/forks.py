"""Notices that this process is a fork of the one that made an object.

Python's fork hooks do not run in every fork: uWSGI forks its workers without them, and so does C
code that calls fork(2). The kernel tells all forks: a page with MADV_WIPEONFORK (Linux 4.14) is
zero in the child. To read a byte of it takes 30 ns, `os.getpid()` takes a system call.
"""

from __future__ import annotations

import mmap
import os
from typing import Final, Protocol

__all__ = ["Mark", "mark"]

#: Of madvise(2); the module `mmap` does not name it.
_WIPE_ON_FORK: Final = 18


class Mark(Protocol):
    """``mark[0]`` is true in the process that made the mark, and false in all forks of it."""

    def __getitem__(self, index: int, /) -> int: ...


class _Pid:
    """A mark where the kernel wipes no page: before Linux 4.14, in gVisor."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    def __getitem__(self, _: int, /) -> int:
        return self._pid == os.getpid()


def mark() -> Mark:
    """Return the mark of this process."""
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        page.madvise(_WIPE_ON_FORK)
    except (OSError, AttributeError, TypeError):  # the last two where it is not Linux
        return _Pid()
    page[0] = 1
    return memoryview(page)
