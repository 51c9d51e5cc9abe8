"""One message at a time between the app and a worker, over a socket that is theirs alone.

Theory of operation: the socket keeps message boundaries (SOCK_SEQPACKET), so that what is small is
one sendmsg and one recvmsg. What is not small is left where it is: the message says at which
addresses, the receiver copies it from there (`remote`) and answers that it has, and only then the
sender goes on. So a large result is copied once, into memory of the app, and a large argument once,
into memory of the worker, where its limits count it. Where the kernel does not let one process read
the other, the sender lays everything into a memfd and sends the descriptor. So does who cannot wait
for an answer: threads and forks of a tool that say something while its result is on offer.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import socket
import struct
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pickle import PickleBuffer
from typing import Any, ClassVar, Final

from agentcgroup.isolation import remote_memory

__all__ = ["INLINE", "LARGE", "Channel", "Message", "Offer", "socket_pair"]

#: Bytes from which a buffer goes out of band (PEP 574): below, copying it along costs less.
LARGE: Final = 256 << 10
#: Bytes of a pickle that a message itself carries: well below the least socket buffer.
INLINE: Final = 64 << 10
_LONGEST: Final = INLINE + 8192

#: Kind, pid of the sender, how the content comes, number of pieces; the rest are buffers.
_HEAD: Final = struct.Struct("<cicH")
_HERE: Final = b"h"  # behind the head
_THERE: Final = b"t"  # in the sender's memory: addresses and lengths are behind the head
_MAPPED: Final = b"m"  # in the memfd that comes along: lengths are behind the head
_PLACE: Final = struct.Struct("<QQ")
# In the length of a buffer: it is read-only, it is one of a bytes object.
_READ_ONLY: Final = 1 << 63
_BYTES: Final = 1 << 62
_SIZE: Final = _BYTES - 1
#: Pieces and buffers whose addresses fit into one message.
_MOST: Final = 400

#: Answers to a message of the second kind.
_TAKEN: Final = b"+"
_REFUSED: Final = b"-"

#: What a receiver makes of an out-of-band buffer.
Buffer = memoryview | bytes

_FD: Final = array.array("i", [0]).itemsize
#: Arguments of recvmsg, for one descriptor that comes along. Numbers: each time that enumerations
#: are put together a dozen functions of Python run.
_ROOM_FOR_FD: Final = socket.CMSG_SPACE(_FD) if sys.platform == "linux" else 0
_WAIT: Final = int(getattr(socket, "MSG_CMSG_CLOEXEC", 0))
_DO_NOT_WAIT: Final = int(getattr(socket, "MSG_DONTWAIT", 0)) | _WAIT


@dataclass(slots=True)  # not frozen, which would make it at three times the cost
class Message:
    """What one side tells the other.

    Attributes:
        kind: one byte; see `worker`.
        pickle: the pickled content, or plain bytes, as the kind says.
        buffers: its out-of-band buffers.
    """

    kind: bytes
    pickle: bytes | memoryview
    buffers: Sequence[Buffer] = field(default=())


@dataclass(frozen=True, slots=True)
class Offer:
    """A message whose content is still in the sender's memory."""

    kind: bytes
    pid: int
    pieces: Sequence[remote_memory.Segment]
    buffers: Sequence[remote_memory.Segment]


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Return two ends that keep message boundaries and wait for each other for ever.

    With socket.setdefaulttimeout they would not; and not to wait is shared with the other process.
    """
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in pair:
        end.settimeout(None)
    return pair


class Channel:
    """One end of the socket."""

    __slots__ = ("_early", "_socket")

    #: Whether the other side may read our memory, as far as we know.
    _readable: ClassVar[bool] = True

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._early: deque[Message] = deque()

    @classmethod
    def pair(cls) -> tuple[Channel, socket.socket]:
        """Return our end, and the one to give away."""
        ours, theirs = socket_pair()
        return cls(ours), theirs

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def send(
        self, kind: bytes, pieces: Sequence[Any], buffers: Sequence[PickleBuffer] = ()
    ) -> None:
        """Send one message; blocks while the other side does not read.

        Args:
            kind: one byte.
            pieces: bytes-like objects that are the content one after the other.
            buffers: out-of-band buffers.

        Raises:
            OSError: EPIPE or ECONNRESET where the other side has gone.
        """
        size = sum(map(len, pieces))
        if size <= INLINE and not buffers:
            self._socket.sendmsg((_HEAD.pack(kind, 0, _HERE, 0), *pieces))
            return
        if len(pieces) + len(buffers) > _MOST:
            pieces = [b"".join(pieces)]
        raws = [buffer.raw() for buffer in buffers]
        if not (self._readable and len(raws) < _MOST and self._offer(kind, pieces, raws)):
            self._lay_out(kind, pieces, raws)

    def tell(self, kind: bytes, content: bytes) -> None:
        """Send one message from whatever thread or fork of this side: it waits for no answer.

        `send` is for the one thread that also receives here, since the other side answers it.
        Raises as `send`.
        """
        if len(content) <= INLINE:
            self._socket.sendmsg((_HEAD.pack(kind, 0, _HERE, 0), content))
        else:
            self._lay_out(kind, [content], ())

    def receive(self) -> Message | None:
        """Wait for the next message; None when the other side has gone and all is read."""
        while True:
            found = self.glance(wait=True)
            if not isinstance(found, Offer):
                return found
            message = self.take(found)
            if message is not None:
                return message

    def glance(self, *, wait: bool = False) -> Message | Offer | None:
        """Return the next message, or the offer of one that `take` has to copy; None as `receive`.

        Raises:
            BlockingIOError: there is none yet and `wait` is false.
        """
        if self._early:
            return self._early.popleft()
        flags = _WAIT if wait else _DO_NOT_WAIT
        try:
            data, ancillary, _, _ = self._socket.recvmsg(_LONGEST, _ROOM_FOR_FD, flags)
        except ConnectionResetError:  # gone with a message of ours unread
            return None
        if not data:
            return None
        kind, pid, how, pieces = _HEAD.unpack_from(data)
        if how == _HERE:
            return Message(kind, memoryview(data)[_HEAD.size :])
        places = list(_PLACE.iter_unpack(memoryview(data)[_HEAD.size :]))
        if how == _THERE:
            return Offer(kind, pid, places[:pieces], places[pieces:])
        fd = array.array("i", ancillary[0][2][:_FD])[0]
        try:
            return Message(kind, *_read(fd, [size for _, size in places]))
        finally:
            os.close(fd)

    def take(self, offer: Offer) -> Message | None:
        """Copy what is offered and let the sender go on.

        None where that cannot be done: the sender then sends it in another way.
        """
        answer = _REFUSED
        try:
            pickle = remote_memory.new_bytes(sum(size for _, size in offer.pieces))
            remote_memory.pull(offer.pid, offer.pieces, pickle)
            buffers = []
            for start, told in offer.buffers:
                buffer = _room(told)
                remote_memory.pull(offer.pid, [(start, told & _SIZE)], buffer)
                buffers.append(_sealed(buffer, told))
            answer = _TAKEN
        except OSError:
            return None
        finally:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # died meanwhile
                self._socket.sendmsg((_HEAD.pack(answer, 0, _HERE, 0),))
        return Message(offer.kind, pickle, buffers)

    def shut(self) -> None:
        """Wake whoever receives here: once what has come is read, there is no more."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close this end."""
        self._socket.close()

    # -- inside -----------------------------------------------------------------------------------

    def _offer(self, kind: bytes, pieces: Sequence[Any], raws: Sequence[memoryview]) -> bool:
        """Tell where it is and wait until it was taken; False where it cannot be."""
        places = [_PLACE.pack(*remote_memory.address(piece)) for piece in pieces]
        for raw in raws:
            start, size = remote_memory.address(raw)
            places.append(_PLACE.pack(start, size | _nature(raw)))
        head = _HEAD.pack(kind, os.getpid(), _THERE, len(pieces))
        self._socket.sendmsg((head, *places))
        early: list[Message] = []  # sent before the other side has seen our offer
        try:
            while (answer := self.receive()) is not None:
                if answer.kind == _TAKEN:
                    return True
                if answer.kind == _REFUSED:
                    Channel._readable = False
                    return False
                early.append(answer)
            return True  # gone; its end tells the rest
        finally:
            self._early.extend(early)

    def _lay_out(self, kind: bytes, pieces: Sequence[Any], raws: Sequence[memoryview]) -> None:
        """Send it in a memfd."""
        sizes = [_PLACE.pack(0, sum(map(len, pieces)))]
        sizes += [_PLACE.pack(0, raw.nbytes | _nature(raw)) for raw in raws]
        fd = os.memfd_create("agentcgroup", os.MFD_CLOEXEC)
        try:
            for data in (*pieces, *raws):
                _write(fd, memoryview(data).cast("B"))
            head = _HEAD.pack(kind, 0, _MAPPED, 1)
            socket.send_fds(self._socket, (head, *sizes), [fd])
        finally:
            os.close(fd)


def _write(fd: int, data: memoryview) -> None:
    while data:  # one write takes 2 GB at most
        data = data[os.write(fd, data) :]


def _nature(raw: memoryview) -> int:
    """Return what the receiver has to know of a buffer beside its length."""
    of_bytes = type(raw.obj) is bytes and raw.nbytes == len(raw.obj)
    return (_READ_ONLY if raw.readonly else 0) | (_BYTES if of_bytes else 0)


def _room(told: int) -> Buffer:
    """Return what is to be filled with a buffer of that length and nature."""
    size = told & _SIZE
    return remote_memory.new_bytes(size) if told & _BYTES else remote_memory.room(size)


def _sealed(buffer: Buffer, told: int) -> Buffer:
    """Return a filled buffer as read-only as it was."""
    if isinstance(buffer, bytes) or not told & _READ_ONLY:
        return buffer
    return buffer.toreadonly()


def _read(fd: int, told: Sequence[int]) -> tuple[bytes, list[Buffer]]:
    """Return the pickle and the buffers that a memfd holds one after the other."""
    os.lseek(fd, 0, os.SEEK_SET)
    pickle = _read_bytes(fd, told[0])
    buffers: list[Buffer] = []
    for one in told[1:]:
        if one & _BYTES:
            buffers.append(_read_bytes(fd, one & _SIZE))
            continue
        view = remote_memory.room(one & _SIZE)
        filled = 0
        while filled < len(view):
            got = os.readv(fd, [view[filled:]])
            if not got:
                raise _cut_short()
            filled += got
        buffers.append(_sealed(view, one))
    return pickle, buffers


def _read_bytes(fd: int, size: int) -> bytes:
    data = os.read(fd, size)
    while len(data) < size:  # one read takes 2 GB at most
        more = os.read(fd, size - len(data))
        if not more:
            raise _cut_short()
        data += more
    return data


def _cut_short() -> OSError:
    return OSError(errno.EBADMSG, "a message of a worker is shorter than it says")
