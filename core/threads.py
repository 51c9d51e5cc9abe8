"""The threads, locks and waits of this package, which gevent and eventlet do not replace.

``monkey.patch_all()`` replaces the classes and functions of `threading`, `queue`, `time`, `select`,
`socket` and `subprocess` by ones that switch to another greenlet instead of blocking the thread. A
switch while one of this package's locks is held leads to a deadlock, and what is called a thread
would run in turns with the tools. So this package takes all of them from here. They are the
standard library's own, whether the program patches before or after the import of this module.

An `Event` and a `Thread` are made anew from the interpreter's locks, because the classes of
`threading` look up their parts by name at each use and so change with a later patch.
"""

from __future__ import annotations

import _socket
import contextlib
import importlib
import math
import os
import sys
import threading
import time
from _queue import Empty, SimpleQueue  # nobody patches the C module
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

__all__ = [
    "Empty",
    "Event",
    "Lock",
    "SimpleQueue",
    "Socket",
    "Thread",
    "get_ident",
    "get_native_id",
    "local",
    "native_ids",
    "poll",
    "sleep",
    "socket_pair",
    "standard_subprocess",
    "start_thread",
]


def _patchers() -> tuple[Any, Any]:
    """Return the modules of gevent and eventlet that patch; None where the program has none."""
    return sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")


def _original(module: str, name: str, patch: str) -> Any:
    """Return an object of the standard library as it was before a patch; None: it has none.

    Args:
        module: the module that holds it.
        name: its name there.
        patch: what eventlet calls the part of its patch that replaces the object.
    """
    gevent, eventlet = _patchers()
    if gevent is not None and gevent.is_object_patched(module, name):
        return gevent.get_original(module, name)
    if eventlet is not None and eventlet.is_monkey_patched(patch):
        return getattr(eventlet.original(module), name, None)
    return getattr(__import__(module), name, None)


if TYPE_CHECKING:
    from select import poll
    from socket import socket as Socket
    from threading import Lock, get_ident, get_native_id, local
    from time import sleep
else:
    Lock = _original("_thread", "allocate_lock", "thread")
    get_ident = _original("_thread", "get_ident", "thread")
    get_native_id = _original("_thread", "get_native_id", "thread")
    local = _original("_thread", "_local", "thread")
    sleep = _original("time", "sleep", "time")
    poll = _original("select", "poll", "select")
    # The class below `socket.socket`: neither those packages nor a detector of blocking code
    # replace its methods, in which a sync tool waits that is called on the thread of an event loop.
    Socket = _socket.socket

_start_new_thread: Any = _original("_thread", "start_new_thread", "thread")


class Event:
    """A `threading.Event`. It holds no lock, so that a signal handler may set it at any moment."""

    __slots__ = ("_set", "_waiters")

    def __init__(self) -> None:
        self._set = False
        self._waiters: list[Lock] = []

    def is_set(self) -> bool:
        """Return whether it is set."""
        return self._set

    def set(self) -> None:
        """Set it and wake all threads that wait for it.

        Each leaves the list itself: were it taken out here, an exception of a signal handler before
        its release would leave it asleep for ever.
        """
        self._set = True
        for waiter in tuple(self._waiters):
            with contextlib.suppress(RuntimeError):  # another thread has released it
                waiter.release()

    def clear(self) -> None:
        """Have later `wait` wait again."""
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, `timeout` seconds at most; return whether it was."""
        if self._set or (timeout is not None and timeout <= 0):
            return self._set
        waiter = Lock()
        waiter.acquire()
        try:
            self._waiters.append(waiter)
            if self._set:  # by a `set` that has found no waiter
                return True
            longest = threading.TIMEOUT_MAX
            return waiter.acquire(timeout=-1 if timeout is None else min(timeout, longest))
        finally:
            with contextlib.suppress(ValueError):  # a signal handler raised before the append
                self._waiters.remove(waiter)


#: Of the threads of this package, by process and thread: when it ended, or infinity.
_native_ids: dict[tuple[int, int], float] = {}
#: Seconds for which the kernel may still list a thread that has ended.
_EXITING: Final = 1.0


def native_ids() -> set[int]:
    """Return the kernel's ids of the threads of this package, in this process."""
    process, since = os.getpid(), time.monotonic() - _EXITING
    for key, ended in tuple(_native_ids.items()):
        if ended < since or key[0] != process:
            _native_ids.pop(key, None)
    return {thread for _, thread in tuple(_native_ids)}


class Thread:
    """A daemon thread of this package, which begins with an empty context: it belongs to no call.

    Attributes:
        name: its name, which `threading.enumerate` has, too.
    """

    def __init__(self, name: str) -> None:
        self.name = f"agentcgroup-{name}"
        self._ident: int | None = None
        self._ended = Event()

    def start(self, target: Callable[[], None]) -> None:
        """Run `target` in a new thread.

        Raises:
            RuntimeError: the system has no more threads, or the interpreter ends.
        """
        _start_new_thread(self._begin, (target,))

    def run(self, target: Callable[[], None]) -> None:
        """Run `target` in the calling thread."""
        self._ident = get_ident()
        try:
            target()
        finally:
            self._ident = None
            self._ended.set()

    def is_current(self) -> bool:
        """Return whether the caller runs in this thread."""
        return self._ident == get_ident()

    def is_alive(self) -> bool:
        """Return whether the target has not returned yet."""
        return not self._ended.is_set()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the target has returned, `timeout` seconds at most."""
        self._ended.wait(timeout)

    def _begin(self, target: Callable[[], None]) -> None:
        key = threading.get_ident()  # the one of `threading`, which gevent replaces
        process, thread = os.getpid(), get_native_id()
        _native_ids[process, thread] = math.inf
        try:
            with contextlib.suppress(Exception):
                threading.current_thread().name = self.name
            self.run(target)
        finally:
            # `threading` keeps what it lists for a thread that it has not started.
            getattr(threading, "_active", {}).pop(key, None)
            _native_ids[process, thread] = time.monotonic()


def start_thread(target: Callable[[], None], name: str) -> Thread:
    """Start a thread of this package and return it; see `Thread`."""
    thread = Thread(name)
    thread.start(target)
    return thread


_subprocess_copy: ModuleType | None = None


def standard_subprocess() -> Any:
    """Return the module `subprocess`, or a copy where gevent or eventlet has replaced its parts.

    gevent removes from the module what its original `Popen` needs, too.
    """
    global _subprocess_copy
    gevent, eventlet = _patchers()
    if not (
        (gevent is not None and gevent.is_module_patched("subprocess"))
        or (eventlet is not None and eventlet.is_monkey_patched("subprocess"))
    ):
        return importlib.import_module("subprocess")
    if _subprocess_copy is None:
        from importlib import util  # only here: each process of ours imports this module

        found = util.find_spec("subprocess")
        assert found is not None
        assert found.loader is not None
        copy = util.module_from_spec(found)
        found.loader.exec_module(copy)
        _subprocess_copy = copy
    return _subprocess_copy


def socket_pair() -> tuple[Socket, Socket]:
    """Return two connected sockets that keep message boundaries and block without a timeout.

    The app's `socket.setdefaulttimeout` would give them one. A timeout also sets O_NONBLOCK, which
    all processes that have inherited the socket share.
    """
    kind = _socket.SOCK_SEQPACKET
    pair = _socket.socketpair(_socket.AF_UNIX, kind)
    ours, theirs = (Socket(_socket.AF_UNIX, kind, 0, one.detach()) for one in pair)
    ours.settimeout(None)
    theirs.settimeout(None)
    return ours, theirs
