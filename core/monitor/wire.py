"""Messages between the app and the helper: one JSON object per datagram of a socket pair.

Datagrams (SOCK_SEQPACKET) keep their bounds and their order; the socket ends with its other side.
The app's messages have the key "do", the helper's have the key "is".
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from agentcgroup.threads import Socket


__all__ = ["LARGEST", "Message", "enlarge_buffer", "receive", "send"]

Message = Mapping[str, Any]

#: Bytes of one datagram; the sender cuts lists that would be longer.
LARGEST: Final = 96 << 10
_FDS: Final = 4


def send(to: Socket, message: Message, fds: Sequence[int] = ()) -> bool:
    """Send without waiting; False when the other side is gone or its buffer is full."""
    data = json.dumps(message).encode("ascii")
    try:
        if fds:
            socket.send_fds(to, [data], fds, socket.MSG_DONTWAIT)
        else:
            to.send(data, socket.MSG_DONTWAIT)
    except OSError:
        return False
    return True


def receive(origin: Socket) -> Message | None:
    """Return the next message, None when the other side is gone.

    Descriptors that came with the message are under "fds"; programs that this process executes do
    not inherit them.

    Raises:
        BlockingIOError: there is no message, and the socket does not wait.
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


def enlarge_buffer(one: Socket) -> None:
    """Give the socket a send buffer for some hundred messages."""
    with contextlib.suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
