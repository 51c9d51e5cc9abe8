"""What host and helper tell each other: one JSON object per datagram of a socket pair.

Datagrams (SOCK_SEQPACKET) keep their bounds, are in order and end with the other side.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["LARGEST", "Message", "receive", "send", "widen"]

Message = Mapping[str, Any]

#: Bytes of one datagram; what is longer is cut by whoever makes it.
LARGEST: Final = 96 << 10


def send(to: socket.socket, message: Message) -> bool:
    """Send without waiting; False when the other side is gone or does not keep up."""
    try:
        to.send(json.dumps(message).encode("ascii"), socket.MSG_DONTWAIT)
    except OSError:
        return False
    return True


def receive(origin: socket.socket) -> Message | None:
    """Return the next message, None when the other side is gone.

    Raises:
        BlockingIOError: there is none, and the socket does not wait.
    """
    try:
        data = origin.recv(LARGEST)
    except ConnectionResetError:
        return None
    if not data:
        return None
    message: Message = json.loads(data)
    return message


def widen(one: socket.socket) -> None:
    """Have room for some hundred messages on their way."""
    with contextlib.suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
