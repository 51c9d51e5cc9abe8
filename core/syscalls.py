"""The system calls that this package makes where an event loop may run.

A detector of blocking code (BlockBuster, which `langgraph dev` switches on, and others) replaces
functions of `os` and the methods of file objects by ones that raise on the thread of an event loop.
It may be active before this package is imported. The functions here are those of `posix`, from
which `os` has its own, and no detector replaces these. A read or write of cgroupfs or procfs takes
microseconds and waits for no disk; what may take longer goes to `off_loop`.
"""

from __future__ import annotations

import sys
from typing import Final

if sys.platform != "win32":  # where importing this package is all that works
    from posix import (
        access,
        close,
        getcwd,
        listdir,
        lseek,
        mkdir,
        open,  # noqa: A004 - the system call, as os.open
        pread,
        read,
        readlink,
        readv,
        rmdir,
        stat,
        write,
    )

__all__ = [
    "access",
    "close",
    "getcwd",
    "listdir",
    "lseek",
    "mkdir",
    "open",
    "pread",
    "read",
    "read_file",
    "readlink",
    "readv",
    "rmdir",
    "stat",
    "write",
]

_READ_SIZE: Final = 65536
_O_RDONLY: Final = 0


def read_file(path: str) -> bytes:
    """Return the content of a file of procfs.

    Raises:
        OSError: as `open` and `read` do.
    """
    fd = open(path, _O_RDONLY)
    try:
        content = b""
        while more := read(fd, _READ_SIZE):
            content += more
        return content
    finally:
        close(fd)
