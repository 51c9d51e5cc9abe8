"""The zygote: a Python of one thread that forks workers and does nothing else.

It is executed, not forked, so that it has none of the app's locks, threads and descriptors; and it
runs none of a call's code and unpickles nothing of it: what it is asked for is a cgroup to fork a
worker into, and modules to import by name, so that the workers have them from their birth.

A module may be unfit for that: it starts threads, or opens what forks must not share. So a fork
tries modules first, and only what leaves one thread and no new descriptor is imported here. Some
libraries keep threads that they end before a fork and start again at need (OpenBLAS): a real
fork() lets them, after which the workers can be made by clone3, which runs no handlers of theirs.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import shutil
import signal
import socket
import struct
import sys
from collections.abc import Iterable, Sequence
from types import FrameType
from typing import Final, NoReturn

from agentcgroup import isolation
from agentcgroup.isolation.channel import Channel
from agentcgroup.isolation.worker import serve

__all__ = ["BORN", "ENDED", "PRELOAD", "REFUSED", "REPORT", "SPAWN", "main"]

#: Requests: a worker (with the number, its folder, its end of the channel and a cgroup), modules.
SPAWN: Final = b"S"
PRELOAD: Final = b"P"
#: A report: what, of which worker, and the pid, the wait status or the errno.
REPORT: Final = struct.Struct("<cqq")
BORN: Final = b"b"
ENDED: Final = b"e"
REFUSED: Final = b"r"

_LONGEST: Final = 128 << 10
_PR_SET_PDEATHSIG: Final = 1

try:
    from agentcgroup import _native
except ImportError:
    _native = None  # type: ignore[assignment]

_libc = ctypes.CDLL(None)


def main(fd: int, parent: int, folder: str) -> NoReturn:
    """Serve the app at the other end of the socket `fd` until it has gone.

    Args:
        fd: a socket that keeps message boundaries.
        parent: pid of the app.
        folder: where the workers' folders stand; removed at the end.
    """
    isolation.step_inside()
    os.setsid()  # what the terminal tells the app, the app tells the workers
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # an app that waits for signals blocks them
    zygote = _Zygote(socket.socket(fileno=fd))
    signal.signal(signal.SIGTERM, zygote.leave)
    _die_with_parent(parent, signal.SIGTERM)
    try:
        zygote.serve()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # may well come on top of the closed socket
        zygote.end()
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)


def _die_with_parent(parent: int, how: int) -> None:
    """Get a signal when the parent ends; for good measure, since a socket may have been copied."""
    _libc.prctl(_PR_SET_PDEATHSIG, how, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


class _Zygote:
    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._workers: dict[int, int] = {}  # number by pid
        # By the pid of the fork that tries them: modules, and where it tells how many are fit.
        self._trials: dict[int, tuple[list[str], int]] = {}
        self._asked: set[str] = set()
        self._wake, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self._wake_write = wake

    def serve(self) -> None:
        gc.disable()
        gc.freeze()
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == self._wake:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake, 4096)
                    self._reap()
                elif not self._take_request():
                    return

    def leave(self, _number: int, _frame: FrameType | None) -> None:
        """Have `serve` return, on a signal: an exception can be lost, as in a hook of a fork."""
        with contextlib.suppress(OSError):  # the app was faster
            self._control.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        """End what is left."""
        for pid in (*self._workers, *self._trials):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # Not for others, of which there is one where the end came between its birth and our note:
        # it dies with us.
        for pid in (*self._workers, *self._trials):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)

    def _take_request(self) -> bool:
        data, fds, _, _ = socket.recv_fds(self._control, _LONGEST, 2)
        for fd in fds:  # whoever has the channel, as a program that a tool runs, can answer for it
            os.set_inheritable(fd, False)
        if not data:
            return False
        request = json.loads(data[1:])
        if data[:1] == SPAWN:
            self._spawn(request["number"], request["folder"], fds)
        else:
            self._try(request)
        return True

    def _report(self, what: bytes, number: int, value: int) -> None:
        with contextlib.suppress(OSError):  # the app has gone; the next read says so
            self._control.send(REPORT.pack(what, number, value))

    # -- workers ------------------------------------------------------------------------------

    def _spawn(self, number: int, folder: str, fds: Sequence[int]) -> None:
        here = os.getpid()
        try:
            pid = _fork_into(fds[1]) if len(fds) > 1 else os.fork()
        except OSError as error:
            self._report(REFUSED, number, error.errno or 0)
        else:
            if pid == 0:
                self._become_worker(here, folder, fds)
            self._workers[pid] = number
            self._report(BORN, number, pid)
        finally:
            if os.getpid() == here:
                for fd in fds:
                    os.close(fd)

    def _become_worker(self, parent: int, folder: str, fds: Sequence[int]) -> NoReturn:
        try:
            _die_with_parent(parent, signal.SIGKILL)
            self._close()
            for fd in fds[1:]:
                os.close(fd)
            serve(Channel(socket.socket(fileno=fds[0])), folder, self._asked.union(sys.modules))
        finally:
            os._exit(1)

    def _close(self) -> None:
        """Let go, in a fork, of what is the zygote's."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._control.close()
        os.close(self._wake)
        os.close(self._wake_write)
        for _, result in self._trials.values():
            os.close(result)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            number = self._workers.pop(pid, None)
            if number is not None:
                self._report(ENDED, number, status)
            trial = self._trials.pop(pid, None)
            if trial is not None:
                self._adopt(*trial)

    # -- modules ------------------------------------------------------------------------------

    def _try(self, names: list[str]) -> None:
        """Have a fork see which of these modules are fit to be imported here."""
        new = [name for name in names if name not in self._asked and name not in sys.modules]
        self._asked.update(new)
        if new:
            self._start_trial(new)

    def _start_trial(self, names: list[str]) -> None:
        here = os.getpid()
        read, write = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            try:
                _die_with_parent(here, signal.SIGKILL)
                self._close()
                os.write(write, b"%d" % _count_fit(names))
            finally:
                os._exit(0)
        os.close(write)
        self._trials[pid] = names, read

    def _adopt(self, names: list[str], result: int) -> None:
        """Import what a trial has found fit, and try what comes behind the first unfit one."""
        with open(result, "rb") as file:
            fit = int(file.read() or b"0")
        _import(names[:fit])
        _let_libraries_end_threads()
        gc.freeze()
        if fit < len(names):
            within = f"{names[fit]}."
            rest = [name for name in names[fit + 1 :] if not name.startswith(within)]
            if rest:
                self._start_trial(rest)


def _count_fit(names: Sequence[str]) -> int:
    """Import modules until one starts threads or opens something; return how many did not."""
    open_before = _descriptors()
    for count, name in enumerate(names):
        _import([name])
        _let_libraries_end_threads()
        if _threads() > 1 or _descriptors() != open_before:
            return count
    return len(names)


def _import(names: Iterable[str]) -> None:
    for name in names:
        with contextlib.suppress(Exception):  # only to be had where it was imported, say
            importlib.import_module(name)


def _let_libraries_end_threads() -> None:
    """Fork once for those who end their threads before a fork, and start them again at need."""
    if _threads() > 1:
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _fork_into(cgroup: int) -> int:
    """Fork with the child in the cgroup; it moves there by itself where clone3 is refused."""
    if _native is not None and _native.spawn_mode()[0] == "clone3":
        return _native.fork_into(cgroup)
    procs = os.open("cgroup.procs", os.O_WRONLY | os.O_CLOEXEC, dir_fd=cgroup)
    try:
        pid = os.fork()
        if pid == 0:
            try:
                os.write(procs, b"0")
            except OSError:
                os._exit(126)
        return pid
    finally:
        os.close(procs)


def command(fd: int, folder: str) -> list[str]:
    """Return the command that starts a zygote, with this process's import path."""
    import subprocess

    flags: list[str] = getattr(subprocess, "_args_from_interpreter_flags")()  # noqa: B009
    path = [entry for entry in sys.path if isinstance(entry, str)]  # Python passes over others
    code = (
        f"import sys; sys.path[:] = {path!r}; "
        "from agentcgroup.isolation.fork_server import main; "
        f"main({fd}, {os.getpid()}, {folder!r})"
    )
    return [sys.executable, *flags, "-c", code]
