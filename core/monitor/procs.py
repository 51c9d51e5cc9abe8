"""The process connector: fork, exec and exit of every process on the machine, over netlink.

Documented in Documentation/driver-api/connector.rst and uapi/linux/cn_proc.h. The connector needs
CAP_NET_ADMIN (not since 6.6) in the first user and pid namespaces; its fork event has the thread
that forked. A classic BPF filter on the socket drops in the kernel the events of threads, and
changes of ids and names.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Sequence
from typing import Final

from agentcgroup.monitor.source import KernelEvent, MachineWideSource, Unavailable

__all__ = ["Connector"]

_NETLINK_CONNECTOR: Final = 11
_CN_IDX_PROC: Final = 1
_CN_VAL_PROC: Final = 1
_PROC_CN_MCAST_LISTEN: Final = 1
_SO_ATTACH_FILTER: Final = 26
_SO_RCVBUFFORCE: Final = 33

_FORK: Final = 0x00000001
_EXEC: Final = 0x00000002
_EXIT: Final = 0x80000000

_NLMSGHDR: Final = struct.Struct("=IHHII")
_CN_MSG: Final = struct.Struct("=IIIIHH")
#: what, cpu, timestamp_ns, and the first four words of the union.
_PROC_EVENT: Final = struct.Struct("=IIQIIII")
_EVENT_AT: Final = _NLMSGHDR.size + _CN_MSG.size
_UNION_AT: Final = _EVENT_AT + 16

#: Room for some 8000 events while this process waits for the CPU: a message takes 512 bytes there.
_BUFFER: Final = 4 << 20
#: Seconds to wait for the kernel's answer, which the kernel sends within the system call.
_ANSWER: Final = 1.0


class Connector(MachineWideSource):
    """The process connector as a source."""

    name = "procs"

    def __init__(self) -> None:
        """Subscribe.

        Raises:
            Unavailable: the kernel has no connector, or refuses it to this process.
        """
        try:
            self._socket = _subscribed()
        except OSError as error:
            raise _explained(error) from error
        self.fd = self._socket.fileno()

    def read(self) -> Sequence[KernelEvent]:
        """Return the events since the last call."""
        found: list[KernelEvent] = []
        while True:
            try:
                message = self._socket.recv(4096)
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                found.append(KernelEvent("lost", 0.0))
                continue
            event = _decoded(message)
            if event is not None:
                found.append(event)

    def close(self) -> None:
        """Unsubscribe."""
        self._socket.close()


def _subscribed() -> socket.socket:
    family = getattr(socket, "AF_NETLINK", 16)
    found = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, _NETLINK_CONNECTOR)
    try:
        found.bind((0, _CN_IDX_PROC))
        try:
            found.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        except PermissionError:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        operation = struct.pack("=I", _PROC_CN_MCAST_LISTEN)
        number = int.from_bytes(os.urandom(3), sys.byteorder)
        body = _CN_MSG.pack(_CN_IDX_PROC, _CN_VAL_PROC, 0, number, len(operation), 0) + operation
        found.send(_NLMSGHDR.pack(_NLMSGHDR.size + len(body), 3, 0, 0, 0) + body)
        _await_answer(found, number)
        _attach_filter(found)
        found.setblocking(False)
    except BaseException:
        found.close()
        raise
    return found


def _await_answer(subscribed: socket.socket, number: int) -> None:
    """Wait for the kernel's answer; outside the first namespaces there is none (cn_proc.c).

    Events may come before the answer, and answers to other processes: every subscriber gets them.
    The answer to this process acknowledges the number that it has sent, plus one.
    """
    poll = select.poll()
    poll.register(subscribed, select.POLLIN)
    deadline = time.monotonic() + _ANSWER
    while poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        message = subscribed.recv(4096)
        what, _, _, code, *_ = _PROC_EVENT.unpack_from(message, _EVENT_AT)
        _, _, _, acknowledged, *_ = _CN_MSG.unpack_from(message, _NLMSGHDR.size)
        if what == 0 and acknowledged == number + 1:
            if code:
                raise OSError(code, os.strerror(code))
            return
    raise TimeoutError(errno.ETIMEDOUT, "the kernel gives no answer")


def _explained(error: OSError) -> Unavailable:
    if error.errno in (errno.EPERM, errno.EACCES):
        return Unavailable("the process connector needs CAP_NET_ADMIN", "add CAP_NET_ADMIN.")
    if error.errno in (errno.EPROTONOSUPPORT, errno.ECONNREFUSED, errno.EAFNOSUPPORT):
        return Unavailable(
            "this kernel has no process connector", "a kernel with CONFIG_PROC_EVENTS=y."
        )
    if isinstance(error, TimeoutError):
        return Unavailable(
            "the process connector reports nothing outside the machine's first pid and user"
            " namespaces",
            "run outside of a container, or with its --pid=host.",
        )
    return Unavailable(f"the process connector cannot be used: {error}")


def _attach_filter(subscribed: socket.socket) -> None:
    program = _filter()
    kept = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("HP", len(program) // _INSTRUCTION.size, ctypes.addressof(kept))
    subscribed.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, head)


#: struct sock_filter: code, jump if true, jump if false (both from the next one), operand.
_INSTRUCTION: Final = struct.Struct("=HBBI")


def _filter() -> bytes:
    """Return a filter that passes every exec, and forks and exits of processes (id equals group).

    A classic filter loads words as big-endian, so constants are byte-swapped; two words are equal
    in either byte order.
    """
    load, tax, ret = 0x20, 0x07, 0x06  # LD|W|ABS, MISC|TAX, RET|K
    equal, equal_x = 0x15, 0x1D  # JMP|JEQ|K, JMP|JEQ|X
    drop, accept = 12, 13  # by place, as the jumps below
    code = (
        (load, 0, 0, _EVENT_AT),
        (equal, 4, 2, socket.htonl(_FORK)),
        (equal, 8, 3, socket.htonl(_EXIT)),
        (equal, accept, drop, socket.htonl(_EXEC)),
        (load, 0, 0, _UNION_AT + 8),  # fork: child_pid, child_tgid
        (tax, 0, 0, 0),
        (load, 0, 0, _UNION_AT + 12),
        (equal_x, accept, drop, 0),
        (load, 0, 0, _UNION_AT),  # exit: process_pid, process_tgid
        (tax, 0, 0, 0),
        (load, 0, 0, _UNION_AT + 4),
        (equal_x, accept, drop, 0),
        (ret, 0, 0, 0),
        (ret, 0, 0, 0xFFFFFFFF),
    )
    jumps = (equal, equal_x)
    return b"".join(
        _INSTRUCTION.pack(code, yes - here - 1, no - here - 1, operand)
        if code in jumps
        else _INSTRUCTION.pack(code, 0, 0, operand)
        for here, (code, yes, no, operand) in enumerate(code)
    )


def _decoded(message: bytes) -> KernelEvent | None:
    if len(message) < _UNION_AT + 16:
        return None
    what, _, nanoseconds, *words = _PROC_EVENT.unpack_from(message, _EVENT_AT)
    time = nanoseconds / 1e9
    if what == _FORK:
        return KernelEvent("fork", time, words[3], parent=words[1], thread=words[0])
    if what == _EXEC:
        return KernelEvent("exec", time, words[1])
    if what == _EXIT:
        return KernelEvent("exit", time, words[1], status=words[2])
    return None
