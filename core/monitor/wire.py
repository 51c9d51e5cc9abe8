"""What host and helper tell each other: one JSON object per datagram of a socket pair.

Datagrams (SOCK_SEQPACKET) keep their bounds, are in order and end with the other side.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Final

__all__ = ["LARGEST", "Message", "receive", "send", "widen"]

Message = Mapping[str, Any]

#: Bytes of one datagram; what is longer is cut by whoever makes it.
LARGEST: Final = 96 << 10
_FDS: Final = 4


def send(to: socket.socket, message: Message, fds: Sequence[int] = ()) -> bool:
    """Send without waiting; False when the other side is gone or does not keep up."""
    data = json.dumps(message).encode("ascii")
    try:
        if fds:
            socket.send_fds(to, [data], fds, socket.MSG_DONTWAIT)
        else:
            to.send(data, socket.MSG_DONTWAIT)
    except OSError:
        return False
    return True


def receive(origin: socket.socket) -> Message | None:
    """Return the next message, None when the other side is gone.

    What descriptors came with it are under "fds", and are not for programs that we execute.

    Raises:
        BlockingIOError: there is none, and the socket does not wait.
    """
    try:
        data, fds, _, _ = socket.recv_fds(origin, LARGEST, _FDS)
    except ConnectionResetError:
        return None
    if not data:
        return None
    message: dict[str, Any] = json.loads(data)
    if fds:
        for fd in fds:  # MSG_CMSG_CLOEXEC would, but recv_fds passes no flags on
            os.set_inheritable(fd, False)
        message["fds"] = fds
    return message


def widen(one: socket.socket) -> None:
    """Have room for some hundred messages on their way."""
    with contextlib.suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
