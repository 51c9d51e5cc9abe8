"""What a tool sends in its worker's place: bounded, checked, and one of our errors."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import agentcgroup
from agentcgroup import LimitExceeded, Session
from agentcgroup.api import begin
from agentcgroup.isolation.channel import Channel
from agentcgroup.isolation.messages import HEAD, IN_MEMFD, IN_MEMORY, IN_MESSAGE, SEGMENT
from agentcgroup.isolation.protocol import FAILURE, LEARNED, RESULT

_MIB = 1 << 20


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    yield begin(
        {
            "rules": [{"tool": "*", "isolation": "process"}],
            "limits": {"call": {"memory_max": "64M", "timeout": "20s"}},
        }
    )
    agentcgroup.unregister()


def _socket() -> Any:
    """Return the worker's end of its channel."""
    (channel,) = (one for one in gc.get_objects() if type(one) is Channel)
    return channel._socket


def _send_fd(head: bytes, fd: int) -> None:
    socket.send_fds(_socket(), [head], [fd])


def _short() -> None:
    _socket().sendmsg((b"R",))


def _unknown_place() -> None:
    _socket().sendmsg((HEAD.pack(RESULT, 0, b"?", 0),))


def _half_a_segment() -> None:
    _socket().sendmsg((HEAD.pack(RESULT, os.getpid(), IN_MEMORY, 1), b"12345"))


def _no_segment() -> None:
    _socket().sendmsg((HEAD.pack(RESULT, os.getpid(), IN_MEMORY, 0),))


def _memfd_without_one() -> None:
    _socket().sendmsg((HEAD.pack(RESULT, 0, IN_MEMFD, 1), SEGMENT.pack(0, 10)))


def _descriptor_with_a_small_message() -> None:
    _send_fd(HEAD.pack(RESULT, 0, IN_MESSAGE, 0) + b"x", os.memfd_create("x"))


def _endless_device() -> None:
    _send_fd(_memfd(6 << 30), os.open("/dev/zero", os.O_RDONLY))


def _pipe() -> None:
    read, _ = os.pipe()
    _send_fd(_memfd(10), read)


def _sparse() -> None:
    fd = os.memfd_create("x")
    os.truncate(fd, 1 << 40)
    _send_fd(_memfd(60 * _MIB), fd)


def _too_large() -> None:
    fd = os.memfd_create("x")
    os.truncate(fd, 1 << 40)
    _send_fd(_memfd(65 * _MIB), fd)


def _the_same_piece_again_and_again() -> None:
    piece = bytes(4 * _MIB)
    address = id(piece) + bytes.__basicsize__ - 1
    head = HEAD.pack(RESULT, os.getpid(), IN_MEMORY, 390)
    _socket().sendmsg((head, SEGMENT.pack(address, len(piece)) * 390))


def _too_long_a_number() -> None:
    head = HEAD.pack(RESULT, os.getpid(), IN_MEMORY, 2)
    _socket().sendmsg((head, SEGMENT.pack(0, (1 << 62) - 1) * 2))


def _memfd(size: int) -> bytes:
    return HEAD.pack(RESULT, 0, IN_MEMFD, 1) + SEGMENT.pack(0, size)


_FORGED = [
    *(_short, _unknown_place, _half_a_segment, _no_segment, _memfd_without_one),
    *(_descriptor_with_a_small_message, _endless_device, _pipe, _sparse, _too_large),
    *(_the_same_piece_again_and_again, _too_long_a_number),
]


def _forge(send: Callable[[], None]) -> None:
    send()
    threading.Event().wait(10)


async def _aforge(send: Callable[[], None]) -> None:
    _forge(send)


@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("send", _FORGED)
def test_a_forged_message_ends_the_call(
    session: Session, send: Callable[[], None], way: str
) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def forge() -> None:
        if way == "sync":
            agentcgroup.isolate("forge")(_forge)(send)
        else:
            asyncio.run(agentcgroup.isolate("forge")(_aforge)(send))

    with pytest.raises(LimitExceeded) as caught:
        forge()
    record = session.records[-1]
    assert record.outcome == "killed"
    assert (record.reason or "").startswith("malformed: ")
    assert "what its worker process sent is no result" in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10


def _garbage(kind: bytes, data: bytes) -> None:
    _socket().sendmsg((HEAD.pack(kind, 0, IN_MESSAGE, 0), data))
    threading.Event().wait(10)


@pytest.mark.parametrize("kind", [RESULT, FAILURE])
@pytest.mark.parametrize(
    "data", [b"", b".", b"garbage", b"\x80\x05]\x94.", b"\x80\x05K\x01K\x02K\x03\x87.", b"N."]
)
def test_garbage_in_a_small_message_is_an_error_of_ours(
    session: Session, kind: bytes, data: bytes
) -> None:
    returned: Any = None
    with contextlib.suppress(agentcgroup.AgentCgroupError):
        returned = agentcgroup.isolate("garbage")(_garbage)(kind, data)
    assert returned in (None, [], (1, 2, 3))
    assert session.records[-1].outcome in ("ok", "error", "killed")


#: Too large for a message that carries its content.
_SIZE = 200_000


def _in_the_name_of(pid: int) -> bytes:
    """Offer memory as that of another process; return the kind of the reply."""
    content = bytes(_SIZE)
    address = id(content) + bytes.__basicsize__ - 1
    head = HEAD.pack(RESULT, pid, IN_MEMORY, 1)
    _socket().sendmsg((head, SEGMENT.pack(address, len(content))))
    reply: bytes = _socket().recv(100)
    return reply[:1]


def _name_many_modules() -> None:
    names = "\n".join(f"module{number}" for number in range(200_000)).encode()
    fd = os.memfd_create("x")
    os.write(fd, names)
    _send_fd(HEAD.pack(LEARNED, 0, IN_MEMFD, 1) + SEGMENT.pack(0, len(names)), fd)


def test_many_names_of_modules_are_not_kept(session: Session) -> None:
    agentcgroup.isolate("names")(_name_many_modules)()
    _ = session.records
    assert len(session._services.workers()._launcher._preloaded) < 10_000


def _echo(data: bytes) -> bytes:
    return data


def test_the_app_reads_the_memory_of_no_other_process(session: Session) -> None:
    assert agentcgroup.isolate("deputy")(_in_the_name_of)(os.getpid()) == b"-"


def test_a_refusal_changes_nothing_for_other_workers(session: Session) -> None:
    agentcgroup.isolate("deputy")(_in_the_name_of)(os.getpid())
    big = os.urandom(3 * _MIB)
    assert agentcgroup.isolate("echo")(_echo)(big) == big
