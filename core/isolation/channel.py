"""Messages between the app and one worker, over a socket that only these two hold.

Theory of operation: the socket keeps message boundaries (SOCK_SEQPACKET, unix(7)), so that a small
message is one sendmsg(2) and one recvmsg(2). A large content stays in the sender's memory: the
message carries its addresses (an **offer**), the receiver copies the content from there
(`remote_memory`) and replies, and the sender waits for the reply. So a large result is copied once,
into the app's memory, and a large argument once, into the worker's memory, where the call's limits
count it. Where the kernel does not let one process read the other's memory, the sender writes the
content into a memfd and sends its file descriptor. `send_one_way` always does so for a large
content, because it waits for no reply: threads and forks of a tool print while the app copies the
tool's result.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import sys
from collections import deque
from collections.abc import Sequence
from pickle import PickleBuffer
from typing import Any, Final

from agentcgroup import syscalls
from agentcgroup.isolation import buffers as out_of_band
from agentcgroup.isolation import remote_memory
from agentcgroup.isolation.messages import (
    HEAD,
    IN_MEMFD,
    IN_MEMORY,
    IN_MESSAGE,
    MESSAGE_MAX,
    SEGMENT,
    Malformed,
    Message,
    Offer,
    parse,
)
from agentcgroup.threads import Socket, socket_pair

__all__ = ["OUT_OF_BAND_MIN", "Channel"]

#: Bytes from which a buffer goes out of band (PEP 574): a smaller one costs less as a copy in the
#: pickle.
OUT_OF_BAND_MIN: Final = 256 << 10
_LONGEST: Final = MESSAGE_MAX + 8192

#: Pieces and buffers whose segments fit into one message.
_MOST: Final = 400

#: Replies to an offer: the content has been copied; it cannot be copied.
_TAKEN: Final = b"+"
_REFUSED: Final = b"-"

_FD: Final = array.array("i", [0]).itemsize
#: Arguments of recvmsg, with room for one descriptor. Plain numbers: each combination of members
#: of an enumeration runs a dozen functions of Python.
_ROOM_FOR_FD: Final = socket.CMSG_SPACE(_FD) if sys.platform == "linux" else 0
_WAIT: Final = int(getattr(socket, "MSG_CMSG_CLOEXEC", 0))
_DO_NOT_WAIT: Final = int(getattr(socket, "MSG_DONTWAIT", 0)) | _WAIT


class Channel:
    """One end of the socket.

    A tool can send anything over it in its worker's place. The app sets `guarded`, so that it
    copies content from the worker alone, and `most`.

    Attributes:
        guarded: whether `peer` is compared with the sender of each offer.
        peer: pid of the process at the other end, None while it is not known.
        most: bytes of content that a message may have; None for no bound.
    """

    __slots__ = ("_blocking", "_early", "_readable", "_socket", "guarded", "most", "peer")

    def __init__(self, end: Socket) -> None:
        self._socket = end
        #: Whether the process at the other end may read our memory; true until a reply refuses it.
        self._readable = True
        self.guarded = False
        self.peer: int | None = None
        self.most: int | None = None
        self._blocking = True
        self._early: deque[Message | Offer] = deque()

    @classmethod
    def pair(cls) -> tuple[Channel, Socket]:
        """Return a channel, and the socket at its other end for another process."""
        ours, theirs = socket_pair()
        return cls(ours), theirs

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def set_blocking(self, blocking: bool) -> None:
        """Make `send` wait while the other side does not read, or raise BlockingIOError.

        A coroutine makes its end one that does not block, lest it block its event loop.
        """
        if blocking is not self._blocking:
            self._socket.setblocking(blocking)
            self._blocking = blocking

    def send(
        self, kind: bytes, pieces: Sequence[Any], buffers: Sequence[PickleBuffer] = ()
    ) -> None:
        """Send one message; blocks while the other side does not read.

        Only the thread that also receives on this channel may call it: a large content waits for a
        reply.

        Args:
            kind: one byte.
            pieces: bytes-like objects that are the content one after the other.
            buffers: out-of-band buffers.

        Raises:
            OSError: EPIPE or ECONNRESET where the other side has closed its end.
        """
        size = sum(map(len, pieces))
        if size <= MESSAGE_MAX and not buffers:
            self._socket.sendmsg((HEAD.pack(kind, 0, IN_MESSAGE, 0), *pieces))
            return
        if len(pieces) + len(buffers) > _MOST:
            pieces = [b"".join(pieces)]
        raws = [buffer.raw() for buffer in buffers]
        if not (self._readable and len(raws) < _MOST and self._offer(kind, pieces, raws)):
            self._send_memfd(kind, pieces, raws)

    def send_one_way(self, kind: bytes, content: bytes) -> None:
        """Send one message without waiting for a reply, from any thread or fork of this side.

        Raises:
            OSError: as `send`.
        """
        if len(content) <= MESSAGE_MAX:
            self._socket.sendmsg((HEAD.pack(kind, 0, IN_MESSAGE, 0), content))
        else:
            self._send_memfd(kind, [content], ())

    def receive(self) -> Message | None:
        """Wait for the next message; None when the other end is closed and all is read.

        Raises:
            Malformed: it is no message, or too large.
        """
        while True:
            found = self._next(_WAIT)
            if not isinstance(found, Offer):
                return found
            message = self.accept(found)
            if message is not None:
                return message

    def receive_nowait(self) -> Message | Offer | None:
        """Return the next message, or an offer for `accept`; None as `receive`.

        Raises:
            BlockingIOError: no message has come yet.
            Malformed: it is no message.
        """
        return self._next(_DO_NOT_WAIT)

    def accept(self, offer: Offer) -> Message | None:
        """Copy the content of an offer and reply, so that the sender goes on.

        May take milliseconds: a coroutine has it run on a thread.

        Returns:
            The message; None where the content cannot be copied: the sender then sends it in a
            memfd.

        Raises:
            Malformed: it is larger than `most`, or no memfd that holds it.
        """
        if offer.memfd is not None:
            try:
                self._check_size(offer)
                heads = [head for _, head in offer.pieces]
                return Message(offer.kind, *out_of_band.read_memfd(offer.memfd, heads))
            except (OSError, ValueError, MemoryError, OverflowError) as error:
                raise Malformed(str(error)) from error
            finally:
                syscalls.close(offer.memfd)
        self._check_size(offer)
        reply = _REFUSED
        try:
            if self.guarded and offer.pid != self.peer:
                return None
            pickle = remote_memory.new_bytes(sum(size for _, size in offer.pieces))
            remote_memory.read(offer.pid, offer.pieces, pickle)
            buffers = []
            for start, head in offer.buffers:
                buffer = out_of_band.allocate(head)
                remote_memory.read(offer.pid, [(start, head & out_of_band.SIZE)], buffer)
                buffers.append(out_of_band.seal(buffer, head))
            reply = _TAKEN
        except (OSError, ValueError, MemoryError, OverflowError):
            return None
        finally:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # ended meanwhile
                self._socket.sendmsg((HEAD.pack(reply, 0, IN_MESSAGE, 0),))
        return Message(offer.kind, pickle, buffers)

    def shutdown(self) -> None:
        """End `receive` in whatever thread: it returns what has come, then None."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close this end."""
        self._socket.close()

    # -- inside -----------------------------------------------------------------------------------

    def _check_size(self, offer: Offer) -> None:
        heads = [head & out_of_band.SIZE for _, head in (*offer.pieces, *offer.buffers)]
        if self.most is not None and sum(heads) > self.most:
            raise Malformed(f"a message of {sum(heads)} bytes, of {self.most} that it may have")
        if offer.memfd is not None:
            out_of_band.check_memfd(offer.memfd, sum(heads))

    def _next(self, flags: int) -> Message | Offer | None:
        if self._early:
            return self._early.popleft()
        try:
            data, ancillary, _, _ = self._socket.recvmsg(_LONGEST, _ROOM_FOR_FD, flags)
        except ConnectionResetError:  # closed with a message of ours unread
            return None
        if not data:
            return None
        return parse(data, array.array("i", ancillary[0][2][:_FD])[0] if ancillary else None)

    def _offer(self, kind: bytes, pieces: Sequence[Any], raws: Sequence[memoryview]) -> bool:
        """Send an offer and wait for the reply; False where the other side cannot copy it."""
        segments = [SEGMENT.pack(*remote_memory.address(piece)) for piece in pieces]
        for raw in raws:
            start, _ = remote_memory.address(raw)
            segments.append(SEGMENT.pack(start, out_of_band.header(raw)))
        head = HEAD.pack(kind, os.getpid(), IN_MEMORY, len(pieces))
        self._socket.sendmsg((head, *segments))
        early: list[Message] = []  # sent before the other side has read the offer
        try:
            while (reply := self.receive()) is not None:
                if reply.kind == _TAKEN:
                    return True
                if reply.kind == _REFUSED:
                    self._readable = False
                    return False
                early.append(reply)
            return True  # closed: the next message cannot be sent either
        finally:
            self._early.extend(early)

    def _send_memfd(self, kind: bytes, pieces: Sequence[Any], raws: Sequence[memoryview]) -> None:
        """Send the content in a memfd."""
        segments = [SEGMENT.pack(0, sum(map(len, pieces)))]
        segments += [SEGMENT.pack(0, out_of_band.header(raw)) for raw in raws]
        fd = out_of_band.write_memfd((*pieces, *raws))
        try:
            head = HEAD.pack(kind, 0, IN_MEMFD, 1)
            socket.send_fds(self._socket, (head, *segments), [fd])
        finally:
            os.close(fd)
