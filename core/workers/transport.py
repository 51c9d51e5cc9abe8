"""One message at a time between the app and a worker, over a socket that is theirs alone.

Theory of operation: the socket keeps message boundaries (SOCK_SEQPACKET), so that what is small is
one sendmsg and one recvmsg. What is not small goes through memory that both map: the pickle's
out-of-band buffers (PEP 574), and the pickle itself when it has grown large, are laid one after the
other into one memfd, whose descriptor the message carries. The receiver maps it privately: an array
lives in the very pages that the sender wrote, and what one side writes the other never sees.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import mmap
import os
import socket
import struct
import sys
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from pickle import PickleBuffer
from typing import Final

__all__ = ["LARGE", "Channel", "Message"]

#: Bytes from which a buffer is worth a mapping of its own (measured: below, two copies are faster).
LARGE: Final = 256 << 10
#: Bytes of a pickle that a message itself carries: well below the least socket buffer.
_INLINE: Final = 64 << 10

#: Kind, number of out-of-band buffers, whether the pickle is among the mapped; then the sizes.
_HEAD: Final = struct.Struct("<cH?")
_SIZE: Final = struct.Struct("<Q")
_READ_ONLY: Final = 1 << 63
_ALIGNED: Final = 64

_FD: Final = array.array("i", [0]).itemsize


@dataclass(frozen=True, slots=True)
class Message:
    """What one side tells the other.

    Attributes:
        kind: one byte; see `worker`.
        pickle: the pickled content, or plain bytes, as the kind says.
        buffers: its out-of-band buffers.
    """

    kind: bytes
    pickle: bytes | memoryview
    buffers: Sequence[memoryview] = field(default=())


class Channel:
    """One end of the socket. Sending and receiving may go on in two threads, each in one."""

    __slots__ = ("_socket",)

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    @classmethod
    def pair(cls) -> tuple[Channel, socket.socket]:
        """Return our end, and the one to give away."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), theirs

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def send(
        self, kind: bytes, pickle: bytes | memoryview, buffers: Sequence[PickleBuffer] = ()
    ) -> None:
        """Send one message; blocks while the other side does not read.

        Raises:
            OSError: EPIPE or ECONNRESET where the other side has gone.
        """
        spilled = len(pickle) > _INLINE
        if not buffers and not spilled:
            self._socket.sendmsg((_HEAD.pack(kind, 0, False), pickle))
            return
        raws = [buffer.raw() for buffer in buffers]
        sizes = [raw.nbytes | (_READ_ONLY if raw.readonly else 0) for raw in raws]
        if spilled:
            raws.append(memoryview(pickle))
            sizes.append(len(pickle))
        head = _HEAD.pack(kind, len(buffers), spilled)
        head += b"".join(map(_SIZE.pack, sizes))
        fd = _laid_out(raws)
        try:
            socket.send_fds(self._socket, (head, b"" if spilled else pickle), [fd])
        finally:
            os.close(fd)

    def receive(self, *, wait: bool = True) -> Message | None:
        """Return the next message, None when the other side has gone and all is read.

        Raises:
            BlockingIOError: there is none yet and `wait` is false.
        """
        flags = 0 if wait else socket.MSG_DONTWAIT
        try:
            data, ancillary, _, _ = self._socket.recvmsg(
                _INLINE + 4096, socket.CMSG_SPACE(_FD), flags | socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:  # gone with a message of ours unread
            return None
        if not data:
            return None
        kind, count, spilled = _HEAD.unpack_from(data)
        start = _HEAD.size
        if not ancillary:
            return Message(kind, memoryview(data)[start:])
        sizes = [
            _SIZE.unpack_from(data, start + index * _SIZE.size)[0]
            for index in range(count + spilled)
        ]
        fd = array.array("i", ancillary[0][2][:_FD])[0]
        try:
            views = _mapped(fd, sizes)
        finally:
            os.close(fd)
        pickle = views.pop() if spilled else memoryview(data)[start + len(sizes) * _SIZE.size :]
        return Message(kind, pickle, views)

    def shut(self) -> None:
        """Wake whoever receives here: once what has come is read, there is no more."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close this end."""
        self._socket.close()


def _aligned(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED


def _laid_out(raws: Sequence[memoryview]) -> int:
    """Return a memfd that holds the buffers one after the other."""
    fd = os.memfd_create("agentcgroup", os.MFD_CLOEXEC)
    try:
        at = 0
        for raw in raws:
            start = at
            while start < at + raw.nbytes:  # one write takes 2 GB at most
                start += os.pwrite(fd, raw[start - at :], start)
            at = _aligned(at + raw.nbytes)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _mapped(fd: int, sizes: Sequence[int]) -> list[memoryview]:
    """Map a memfd and return views of its buffers, which keep the mapping."""
    whole = _map(fd, os.fstat(fd).st_size)
    views = []
    at = 0
    for size in sizes:
        length = size & ~_READ_ONLY
        view = whole[at : at + length]
        views.append(view.toreadonly() if size & _READ_ONLY else view)
        at = _aligned(at + length)
    return views


if sys.version_info >= (3, 13):

    def _map(fd: int, size: int) -> memoryview:
        return memoryview(mmap.mmap(fd, size, mmap.MAP_PRIVATE, trackfd=False))

else:
    # mmap.mmap keeps a duplicate of the descriptor, so that an app that keeps a thousand results
    # would run out of them.
    _libc = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "linux":
        _libc.mmap.restype = ctypes.c_void_p
        _libc.mmap.argtypes = (
            *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int),
            *(ctypes.c_int, ctypes.c_int, ctypes.c_long),
        )
        _libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)

    def _map(fd: int, size: int) -> memoryview:
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        address = _libc.mmap(None, size, protection, mmap.MAP_PRIVATE, fd, 0)
        if address == ctypes.c_void_p(-1).value:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), "mmap")
        block = (ctypes.c_char * size).from_address(address)
        weakref.finalize(block, _libc.munmap, address, size).atexit = False
        return memoryview(block).cast("B")
