"""Out-of-band buffers (PEP 574) of a message: their headers, new memory for them, memfds.

The **header** of a buffer is a 64-bit number in the message: the buffer's length in bytes and two
flags, from which the receiver makes the same kind of buffer.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterable, Sequence
from typing import Any, Final

from agentcgroup import syscalls
from agentcgroup.isolation import remote_memory

__all__ = [
    "SIZE",
    "Buffer",
    "allocate",
    "check_memfd",
    "header",
    "read_memfd",
    "seal",
    "write_memfd",
]

#: The type that a receiver makes of an out-of-band buffer.
Buffer = memoryview | bytes

#: fcntl(2); `fcntl.F_GET_SEALS` is there where Python was built against new headers.
_F_GET_SEALS: Final = 1034
#: Flags of a header: the buffer is read-only; the buffer is the one of a bytes object.
_READ_ONLY: Final = 1 << 63
_BYTES: Final = 1 << 62
#: The bits of a header that hold the length.
SIZE: Final = _BYTES - 1


def header(raw: memoryview) -> int:
    """Return the header of a buffer."""
    of_bytes = type(raw.obj) is bytes and raw.nbytes == len(raw.obj)
    return raw.nbytes | (_READ_ONLY if raw.readonly else 0) | (_BYTES if of_bytes else 0)


def allocate(head: int) -> Buffer:
    """Return new memory for a buffer with the header `head`; `seal` it once it is filled."""
    size = head & SIZE
    if head & _BYTES:
        return remote_memory.new_bytes(size)
    return remote_memory.new_buffer(size)


def seal(buffer: Buffer, head: int) -> Buffer:
    """Return a filled buffer, read-only where its header has that flag."""
    if isinstance(buffer, bytes) or not head & _READ_ONLY:
        return buffer
    return buffer.toreadonly()


def write_memfd(parts: Iterable[Any]) -> int:
    """Return the file descriptor of a new memfd that holds these bytes-like objects in order.

    Raises:
        OSError: memory or file descriptors have run out.
    """
    fd = os.memfd_create("agentcgroup", os.MFD_CLOEXEC)
    try:
        for part in parts:
            data = memoryview(part).cast("B")
            while data:  # one write takes 2 GB at most
                data = data[syscalls.write(fd, data) :]
    except BaseException:
        os.close(fd)
        raise
    return fd


def check_memfd(fd: int, size: int) -> None:
    """Check that a descriptor is a memfd that holds `size` bytes, none of them in a hole.

    Raises:
        OSError: it is not.
    """
    fcntl.fcntl(fd, _F_GET_SEALS)  # EINVAL for all but memfds
    found = os.fstat(fd)
    if found.st_size < size or found.st_blocks * 512 < size:
        raise _cut_short()


def read_memfd(fd: int, heads: Sequence[int]) -> tuple[bytes, list[Buffer]]:
    """Return the pickle and the buffers that a memfd holds in order.

    Args:
        fd: the memfd; the caller closes it.
        heads: length of the pickle, then the header of each buffer.

    Raises:
        OSError: EBADMSG where the memfd holds less than the headers say.
    """
    syscalls.lseek(fd, 0, os.SEEK_SET)
    pickle = _read_bytes(fd, heads[0])
    buffers: list[Buffer] = []
    for one in heads[1:]:
        if one & _BYTES:
            buffers.append(_read_bytes(fd, one & SIZE))
            continue
        view = remote_memory.new_buffer(one & SIZE)
        filled = 0
        while filled < len(view):
            got = syscalls.readv(fd, [view[filled:]])
            if not got:
                raise _cut_short()
            filled += got
        buffers.append(seal(view, one))
    return pickle, buffers


def _read_bytes(fd: int, size: int) -> bytes:
    data = syscalls.read(fd, size)
    while len(data) < size:  # one read takes 2 GB at most
        more = syscalls.read(fd, size - len(data))
        if not more:
            raise _cut_short()
        data += more
    return data


def _cut_short() -> OSError:
    return OSError(errno.EBADMSG, "a message of a worker is shorter than it says")
