"""The code of the fork server: a Python process with one thread that forks workers.

The app executes it and does not fork it, so that it has none of the app's locks, threads and file
descriptors. It never runs or unpickles anything of a call: a request names a cgroup to fork a
worker into, or modules to import, which later workers inherit.
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
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Final, NoReturn

from agentcgroup import isolation
from agentcgroup.isolation import preloading
from agentcgroup.isolation.channel import Channel
from agentcgroup.isolation.older_modules import OlderModules
from agentcgroup.isolation.protocol import BORN, ENDED, REFUSED, REPORT, SETTLED, SPAWN
from agentcgroup.isolation.worker import serve
from agentcgroup.threads import Socket, poll

__all__ = ["main"]

_LONGEST: Final = 128 << 10
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
#: Seconds that a trial may take: a module may wait for ever when it is imported.
_TRIAL_MOST: Final = 60

try:
    from agentcgroup import _native
except ImportError:
    _native = None  # type: ignore[assignment]

_libc = ctypes.CDLL(None)


def main(
    fd: int, parent: int, folder: str, since: float, path: list[str], pythonpath: str | None
) -> NoReturn:
    """Serve requests of the app until it closes its end of the socket `fd`.

    Args:
        fd: file descriptor of a socket that keeps message boundaries.
        parent: pid of the app.
        folder: the folder that holds the workers' folders; removed at the end.
        since: when the run began (Unix time): no module whose file is newer is imported here.
        path: the app's ``sys.path``.
        pythonpath: the app's ``PYTHONPATH``, None where it has none.
    """
    isolation.set_inside()
    _undumpable(True)
    modules = OlderModules(since)
    _take_path(modules, path, pythonpath)
    os.setsid()  # signals of the terminal go to the app, which ends its workers itself
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # an app that waits for signals blocks them
    server = ForkServer(Socket(fileno=fd), modules)
    signal.signal(signal.SIGTERM, server.stop)
    _die_with_parent(parent, signal.SIGTERM)
    try:
        server.serve()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it may come after the closed socket, too
        server.end()
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)


def _take_path(modules: OlderModules, path: list[str], pythonpath: str | None) -> None:
    """Import from the app's path from now on, what is older than the run.

    This process has started without it: a tool may write into the folders of the program and of
    PYTHONPATH, and a module there may have the name of one of the standard library.
    """
    modules.install()
    sys.path[:] = path
    if pythonpath is not None:
        os.environ["PYTHONPATH"] = pythonpath
        with contextlib.suppress(Exception):  # there need not be one, and its faults are the user's
            importlib.import_module("sitecustomize")


def _undumpable(on: bool) -> None:
    """Let no other process of this user trace this one or write into its memory; or let it again.

    With CAP_SYS_PTRACE a process can all the same (ptrace(2), PTRACE_MODE_ATTACH).
    """
    _libc.prctl(_PR_SET_DUMPABLE, 0 if on else 1, 0, 0, 0)


def _die_with_parent(parent: int, how: int) -> None:
    """Have the kernel send the signal `how` to this process when its parent ends.

    The closed socket alone does not suffice: another process may hold a copy of the app's end.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, how, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


class ForkServer:
    """Serves requests of one app; `launcher.Launcher` is the app's handle for it."""

    def __init__(self, control: Socket, modules: OlderModules) -> None:
        self._control = control
        self._modules = modules
        self._workers: dict[int, int] = {}  # number by pid
        # By pid of a trial: the modules, and the pipe that it writes the number of fit ones to.
        self._trials: dict[int, tuple[list[str], int]] = {}
        self._tried: set[str] = set()
        self._waiting: list[str] = []  # modules to try after the present trial
        self._preloads = 0
        self._wake, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self._wake_write = wake

    def serve(self) -> None:
        """Serve requests and reap children until the app closes the socket."""
        gc.disable()
        gc.freeze()
        events = poll()
        events.register(self._control, select.POLLIN)
        events.register(self._wake, select.POLLIN)
        while True:
            for fd, _ in events.poll():
                if fd == self._wake:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake, 4096)
                    self._reap()
                elif not self._take_request():
                    return

    def stop(self, _number: int, _frame: FrameType | None) -> None:
        """Have `serve` return; a signal handler.

        It raises no exception, which could be lost: Python only prints those that are raised while
        a hook of os.fork() runs.
        """
        with contextlib.suppress(OSError):  # the app has closed it already
            self._control.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        """Kill and reap the children that are left."""
        for pid in (*self._workers, *self._trials):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # Not every child: a signal between the fork and the note of its pid leaves one that is not
        # noted; it dies with this process.
        for pid in (*self._workers, *self._trials):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)

    def _take_request(self) -> bool:
        """Carry out the next request; False when the app has closed the socket."""
        data, fds, _, _ = socket.recv_fds(self._control, _LONGEST, 2)
        # A program that the tool executes must not inherit the channel: it could answer the call.
        for fd in fds:
            os.set_inheritable(fd, False)
        if not data:
            return False
        request = json.loads(data[1:])
        if data[:1] == SPAWN:
            self._spawn(request["number"], request["folder"], fds)
        else:
            self._preload(request)
        return True

    def _report(self, what: bytes, number: int, value: int) -> None:
        with contextlib.suppress(OSError):  # the app has closed the socket; the next read says so
            self._control.send(REPORT.pack(what, number, value))

    # -- workers ------------------------------------------------------------------------------

    def _spawn(self, number: int, folder: str, fds: Sequence[int]) -> None:
        """Fork a worker, with its end of the channel and maybe the directory of a cgroup in fds."""
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
            _undumpable(False)  # the app reads large results from its memory
            self._modules.remove()
            self._close()
            for fd in fds[1:]:
                os.close(fd)
            serve(Channel(Socket(fileno=fds[0])), folder, self._tried.union(sys.modules))
        finally:
            os._exit(1)

    def _close(self) -> None:
        """Close, in a fork, the file descriptors and signal handlers of the fork server."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._control.close()
        os.close(self._wake)
        os.close(self._wake_write)
        for _, result in self._trials.values():
            os.close(result)

    def _reap(self) -> None:
        """Reap children that have ended: report workers, use the results of trials."""
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
                self._finish_trial(*trial)

    # -- modules ------------------------------------------------------------------------------

    def _preload(self, names: list[str]) -> None:
        """Import the modules that are fit for it; see `preloading`."""
        self._preloads += 1
        self._waiting += [name for name in names if name not in self._tried]
        self._tried.update(names)
        self._next_trial()

    def _next_trial(self) -> None:
        """Try the modules that wait, unless a trial runs: two would import the same packages."""
        if self._trials:
            return
        names = [name for name in self._waiting if name not in sys.modules]
        self._waiting = []
        if names:
            self._modules.install()
            self._start_trial(names)
        else:
            self._report(SETTLED, self._preloads, 0)

    def _start_trial(self, names: list[str]) -> None:
        here = os.getpid()
        read, write = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            try:
                _die_with_parent(here, signal.SIGKILL)
                signal.alarm(_TRIAL_MOST)
                self._close()
                os.write(write, b"%d" % preloading.count_fit(names))
            finally:
                os._exit(0)
        os.close(write)
        self._trials[pid] = names, read

    def _finish_trial(self, names: list[str], result: int) -> None:
        """Import the modules that a trial has found fit, and try those behind the unfit one."""
        with open(result, "rb") as file:
            fit = int(file.read() or b"0")
        self._modules.install()
        preloading.import_modules(names[:fit])
        gc.freeze()
        self._waiting = preloading.without_unfit(names, fit) + self._waiting
        self._next_trial()


def _fork_into(cgroup: int) -> int:
    """Fork with the child in the cgroup; the child moves itself there where clone3 is refused."""
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
