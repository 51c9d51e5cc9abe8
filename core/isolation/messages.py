"""The form of messages on a channel: a head, and the content or where it is."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from agentcgroup import syscalls
from agentcgroup.isolation.buffers import Buffer
from agentcgroup.isolation.remote_memory import Segment

__all__ = [
    "HEAD",
    "IN_MEMFD",
    "IN_MEMORY",
    "IN_MESSAGE",
    "MESSAGE_MAX",
    "SEGMENT",
    "Malformed",
    "Message",
    "Offer",
    "parse",
]

#: Bytes of a pickle that a message itself carries at most: well below the least socket buffer.
MESSAGE_MAX: Final = 64 << 10
#: Kind, pid of the sender, where the content is, number of pieces; the content, or the segments of
#: pieces and buffers, come behind it.
HEAD: Final = struct.Struct("<cicH")
IN_MESSAGE: Final = b"h"  # behind the head
IN_MEMORY: Final = b"t"  # in the sender's memory: the segments are behind the head
IN_MEMFD: Final = b"m"  # in the memfd that comes along: the lengths are behind the head
#: Address and length of a piece; address and header of a buffer.
SEGMENT: Final = struct.Struct("<QQ")


@dataclass(slots=True)  # not frozen, which would make it at three times the cost
class Message:
    """One message.

    Attributes:
        kind: one byte; see `protocol`.
        pickle: the pickled content, or plain bytes, depending on the kind.
        buffers: the out-of-band buffers of the content.
    """

    kind: bytes
    pickle: bytes | memoryview
    buffers: Sequence[Buffer] = field(default=())

    def is_large(self) -> bool:
        """Return whether it was too large to be sent as one message."""
        return bool(self.buffers) or len(self.pickle) > MESSAGE_MAX


@dataclass(frozen=True, slots=True)
class Offer:
    """A message whose content is still in the sender's memory, or in a memfd.

    Attributes:
        kind: as in `Message`.
        pid: the sender's process id.
        pieces: where the pieces of the pickle are; of a memfd the headers of all that it holds.
        buffers: address and header of each out-of-band buffer.
        memfd: the memfd that holds the content, for `accept` to close; None where there is none.
    """

    kind: bytes
    pid: int
    pieces: Sequence[Segment]
    buffers: Sequence[Segment]
    memfd: int | None = None


class Malformed(Exception):
    """What a worker has sent is no message, or too large."""


def parse(data: bytes, fd: int | None) -> Message | Offer:
    """Return the message or the offer in what has been received.

    Args:
        data: what one recvmsg(2) has returned.
        fd: the descriptor that came along, which is closed where this raises; None: none did.

    Raises:
        Malformed: it is neither.
    """
    try:
        kind, pid, where, pieces = HEAD.unpack_from(data)
        if where == IN_MESSAGE and fd is None:
            return Message(kind, memoryview(data)[HEAD.size :])
        segments = list(SEGMENT.iter_unpack(memoryview(data)[HEAD.size :]))
        if where == IN_MEMORY and fd is None and segments[:pieces]:
            return Offer(kind, pid, segments[:pieces], segments[pieces:])
        if where == IN_MEMFD and fd is not None and segments:
            return Offer(kind, pid, segments, (), fd)
        raise Malformed("the head of a message is wrong")
    except (struct.error, Malformed) as error:
        if fd is not None:
            syscalls.close(fd)
        raise Malformed(str(error)) from error
