"""Small, large and very large messages over a channel, by each way that it has."""

from __future__ import annotations

import errno
import os
import pickle
import platform
import select
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from agentcgroup.isolation.channel import OUT_OF_BAND_MIN, Channel
from agentcgroup.isolation.messages import MESSAGE_MAX, Malformed, Message
from agentcgroup.isolation.pickling import pack, unpack
from tests.support.spawn_modes import deny

_PROCESS_VM_READV = {"x86_64": 310, "aarch64": 270}[platform.machine()]


@pytest.fixture(params=["read from memory", "by descriptor"])
def ends(request: pytest.FixtureRequest) -> Iterator[list[Channel]]:
    near, other = Channel.pair()
    with closing(near), closing(Channel(other)) as far:
        for end in (near, far):
            end._readable = request.param == "read from memory"
        yield [near, far]


def _through(
    ends: list[Channel], thing: object, prepare: Callable[[], object] = lambda: None
) -> object:
    """Send an object to a thread that has called `prepare`, and return what the thread received."""
    near, far = ends
    got: list[Message | None] = []

    def receive() -> None:
        prepare()
        got.append(far.receive())

    receiver = threading.Thread(target=receive)
    receiver.start()
    near.send(b"x", *pack(thing))
    receiver.join()
    (message,) = got
    assert message is not None
    assert message.kind == b"x"
    return unpack(message.pickle, buffers=message.buffers)


@pytest.mark.parametrize(
    "size",
    [
        0,
        1,
        MESSAGE_MAX - 64,
        MESSAGE_MAX,
        MESSAGE_MAX + 1,
        OUT_OF_BAND_MIN - 1,
        OUT_OF_BAND_MIN,
        OUT_OF_BAND_MIN + 1,
        10_000_000,
    ],
)
def test_bytes_of_every_size(ends: list[Channel], size: int) -> None:
    data = os.urandom(size)
    assert _through(ends, data) == data
    assert _through(ends, ["in a list", data, data]) == ["in a list", data, data]
    assert type(_through(ends, data)) is bytes


def test_arrays_arrive_whole_and_as_writable_as_they_were(ends: list[Channel]) -> None:
    numpy = pytest.importorskip("numpy")
    sealed = numpy.arange(OUT_OF_BAND_MIN)
    sealed.flags.writeable = False
    things = [
        numpy.arange(OUT_OF_BAND_MIN),
        sealed,
        numpy.arange(3),
        numpy.asfortranarray([[1, 2], [3, 4]]),
    ]
    came = _through(ends, things)
    assert isinstance(came, list)
    for one, other in zip(things, came, strict=True):
        assert (one == other).all()
        assert one.flags.writeable == other.flags.writeable


@pytest.mark.parametrize(
    "size", [MESSAGE_MAX - 1, MESSAGE_MAX, MESSAGE_MAX + 1, OUT_OF_BAND_MIN - 1]
)
def test_arrays_that_are_too_small_to_go_out_of_band(ends: list[Channel], size: int) -> None:
    numpy = pytest.importorskip("numpy")
    data = numpy.frombuffer(os.urandom(size), numpy.uint8)
    came = _through(ends, [data, data.copy()])
    assert isinstance(came, list)
    assert [one.tobytes() for one in came] == 2 * [data.tobytes()]


def test_more_buffers_than_fit_into_one_message(ends: list[Channel]) -> None:
    things = [bytearray(os.urandom(8)) * (OUT_OF_BAND_MIN // 8) for _ in range(500)]
    buffers = [pickle.PickleBuffer(thing) for thing in things]
    near, far = ends
    got: list[Message | None] = []
    receiver = threading.Thread(target=lambda: got.append(far.receive()))
    receiver.start()
    near.send(b"x", [b"head"], buffers)
    receiver.join()
    (message,) = got
    assert message is not None
    assert bytes(message.pickle) == b"head"
    assert [bytes(buffer) for buffer in message.buffers] == things


def test_messages_sent_before_the_end_is_closed_are_received(ends: list[Channel]) -> None:
    near, far = ends
    near.send(b"a", [b"1"])
    near.send(b"b", [b"2"])
    near.close()
    assert [bytes(m.pickle) for m in (far.receive(), far.receive()) if m] == [b"1", b"2"]
    assert far.receive() is None
    with pytest.raises(BrokenPipeError):
        far.send(b"c", [b""])


def test_where_the_kernel_refuses_to_read_memory_a_memfd_is_sent(ends: list[Channel]) -> None:
    data = os.urandom(1 << 20)
    assert _through(ends, data, lambda: deny([_PROCESS_VM_READV], errno.EPERM)) == data
    assert not ends[0]._readable


def test_a_sender_that_dies_before_its_offer_is_copied_has_sent_nothing() -> None:
    near, other = Channel.pair()
    with closing(near), closing(Channel(other)) as far:
        sender = os.fork()
        if sender == 0:
            try:
                near.send(b"x", *pack(os.urandom(1 << 20)))  # waits until it is copied
            finally:
                os._exit(0)
        near.close()
        select.select([far], [], [])
        os.kill(sender, signal.SIGKILL)
        os.waitpid(sender, 0)
        assert far.receive() is None


def test_a_memfd_that_is_shorter_than_its_message_says_is_an_error_and_no_wait() -> None:
    """A worker may send any message; a memfd that is too short must not block the app."""
    near, far = Channel.pair()
    fd = os.memfd_create("cut")
    with closing(near), closing(far):
        head = struct.pack("<cicH", b"x", 0, b"m", 1)
        socket.send_fds(far, [head, struct.pack("<QQ", 0, 100)], [fd])
        os.close(fd)
        with pytest.raises(Malformed, match="shorter than it says"):
            near.receive()
