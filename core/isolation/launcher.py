"""The app's handle for the fork server: it starts it, requests workers, and reads its reports.

One thread of the app starts the fork server and then reads its reports. The thread lives as long as
the fork server, because the kernel ends the fork server with the thread that has started it
(PR_SET_PDEATHSIG, prctl(2)). No request waits for a reply: requests, and the call for a worker that
is not born yet, wait in the buffers of the sockets.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from typing import Final

from agentcgroup import scope
from agentcgroup.containment.owner import NoWorker
from agentcgroup.interpreter import python
from agentcgroup.isolation import older_modules
from agentcgroup.isolation.channel import Channel
from agentcgroup.isolation.environment import Snapshot
from agentcgroup.isolation.folders import private_folder
from agentcgroup.isolation.protocol import BORN, PRELOAD, REFUSED, REPORT, SETTLED, SPAWN
from agentcgroup.isolation.worker_handle import Worker, how_ended
from agentcgroup.threads import (
    Event,
    Lock,
    Socket,
    Thread,
    socket_pair,
    standard_subprocess,
    start_thread,
)

__all__ = ["Launcher"]

logger = logging.getLogger("agentcgroup")

#: Bytes of a request to import modules: a worker's message has some hundred names. A longer one is
#: not sent on, since the fork server reads no more of it.
_LONGEST_REQUEST: Final = 60_000
#: Names of modules that are looked at for one fork server; those of the largest programs are a
#: tenth of it.
_NAMES_MAX: Final = 50_000


class Launcher:
    """Starts the fork server at the first request, and another one when that has ended.

    Safe to use from many threads.
    """

    def __init__(
        self,
        target: scope.SpawnTarget,
        pause: float,
        on_pause: Callable[[], None],
        defer: Callable[[Callable[[], None]], None],
        since: float,
    ) -> None:
        """Hold what later requests need.

        Args:
            target: the fork server itself is born in its cgroup.
            pause: seconds between two calls of `on_pause`.
            on_pause: called on the thread that reads the reports; what it raises ends that thread
                and the fork server.
            defer: has a job done soon, on a thread where it may wait.
            since: when the run began (Unix time).
        """
        self._target = target
        self._defer = defer
        self._since = since
        self._pause = pause
        self._on_pause = on_pause
        self._paused = time.monotonic()
        self._lock = Lock()
        self._numbers = itertools.count(1)
        self._control: Socket | None = None
        self._starting = False  # it has not reported anything yet
        self._living: dict[int, Worker] = {}
        self._folder = ""
        self._snapshot = Snapshot("", (0, 0), {}, [])
        self._preloaded: set[str] = set()
        self._checks = 0  # lists of modules whose files are looked at
        self._preloads = 0  # requests to import modules
        self._preloads_done = 0
        self._settled = Event()  # they are carried out; set where there is a fork server
        self._thread: Thread | None = None
        self._closed = False

    def spawn(self, cgroup: int | None) -> Worker:
        """Request a worker; returns before it is born.

        Args:
            cgroup: file descriptor of the cgroup's directory; None for the fork server's cgroup.

        Raises:
            NoWorker: the fork server cannot be started or takes no requests.
        """
        with self._lock:
            try:
                try:
                    return self._request(cgroup)
                except (BrokenPipeError, ConnectionResetError):
                    # The fork server has just ended, maybe with requests unread; the thread that
                    # reads its reports logs that.
                    self._control = None
                    return self._request(cgroup)
            except OSError as error:
                raise NoWorker(str(error)) from error

    def is_running(self) -> bool:
        """Return whether the fork server was started, so that a request is only one message."""
        return self._control is not None

    def preload(self, names: Iterable[str]) -> None:
        """Request that the fork server imports modules, for later workers to inherit.

        Of those only that are older than the run; to look takes milliseconds, on another thread.

        Args:
            names: as a worker has sent them.
        """
        with self._lock:
            new = [name for name in names if name not in self._preloaded]
            if not new or self._control is None or len(self._preloaded) > _NAMES_MAX:
                return
            self._preloaded.update(new)
            self._checks += 1
            self._settled.clear()
        self._defer(functools.partial(self._request_import, new))

    def _request_import(self, names: list[str]) -> None:
        older = older_modules.among(names, self._since)
        with self._lock:
            self._checks -= 1
            request = json.dumps(older).encode()
            if older and self._control is not None and len(request) <= _LONGEST_REQUEST:
                self._preloads += 1
                with contextlib.suppress(OSError):
                    self._control.sendmsg([PRELOAD, request])
            self._note_settled()

    def _note_settled(self) -> None:
        """Note whether every request to import modules is carried out; call it with the lock."""
        if not self._checks and self._preloads_done >= self._preloads:
            self._settled.set()

    def wait_preloaded(self, seconds: float) -> bool:
        """Wait until the fork server has imported what is fit; False where the time is over."""
        return self._settled.wait(seconds)

    def close(self) -> None:
        """End the fork server, and with it every worker; waits for 10 s at most."""
        with self._lock:
            self._closed = True
            control, self._control = self._control, None
            thread = self._thread
        if control is not None:
            with contextlib.suppress(OSError):
                control.shutdown(socket.SHUT_RDWR)
        if thread is not None and not thread.is_current():
            thread.join(10)

    # -- inside -----------------------------------------------------------------------------------

    def _request(self, cgroup: int | None) -> Worker:
        control = self._running()
        ours, theirs = Channel.pair()
        number = next(self._numbers)
        busy = self._starting or not self._settled.is_set()
        worker = Worker(number, ours, f"{self._folder}/{number}", self._snapshot, busy=busy)
        request = json.dumps({"number": number, "folder": worker.folder}).encode()
        fds = [theirs.fileno()] if cgroup is None else [theirs.fileno(), cgroup]
        self._living[number] = worker
        try:
            socket.send_fds(control, [SPAWN, request], fds)
        except OSError:
            del self._living[number]
            ours.close()
            raise
        finally:
            theirs.close()
        return worker

    def _running(self) -> Socket:
        """Return the socket to the fork server; start one where there is none."""
        if self._closed:
            raise OSError("the session is closed")
        if self._control is None:
            python()  # raises where there is none
            ours, theirs = socket_pair()
            self._folder = private_folder()
            self._snapshot = Snapshot.take()
            self._control = ours
            self._starting = True
            self._living = {}
            self._preloaded = set()
            self._preloads = self._preloads_done = 0
            self._settled.set()
            folder, living = self._folder, self._living
            try:
                self._thread = start_thread(
                    lambda: self._supervise(ours, theirs, folder, living), "workers"
                )
            except RuntimeError as error:
                self._control = None
                ours.close()
                theirs.close()
                os.rmdir(folder)
                raise OSError(str(error)) from error
        return self._control

    def _supervise(
        self, ours: Socket, theirs: Socket, folder: str, living: dict[int, Worker]
    ) -> None:
        """Start a fork server and read its reports until it ends; runs on a thread of its own."""
        process = None
        try:
            scope.current.set(self._target)
            process = standard_subprocess().Popen(
                _command(theirs.fileno(), folder, self._since),
                stdin=subprocess.DEVNULL,
                env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
                pass_fds=[theirs.fileno()],
            )
            scope.current.set(None)
            theirs.close()
            ours.settimeout(self._pause)  # for sends, too; requests never fill the buffer
            while report := self._next_report(ours):
                what, number, value = REPORT.unpack(report)
                self._note(what, number, value, living)
        except Exception:
            logger.exception("agentcgroup: the process that makes workers is ended after a fault")
        theirs.close()
        with self._lock:
            expected = self._closed
            if self._control is ours:
                self._control = None
        ours.close()  # which ends the fork server where the exception was ours
        status = process.wait() if process is not None else None
        for worker in list(living.values()):
            worker.end("lost: the process that makes workers ended")
        shutil.rmtree(folder, ignore_errors=True)
        if not expected:
            logger.error(
                "agentcgroup: the process that makes workers has ended (status %s); calls in its "
                "workers were lost, the next call starts another one",
                status,
            )

    def _next_report(self, control: Socket) -> bytes:
        """Return the next report, b"" at the end; calls `on_pause` in between."""
        while True:
            if time.monotonic() - self._paused >= self._pause:
                self._paused = time.monotonic()
                self._on_pause()
            try:
                return control.recv(REPORT.size)
            except TimeoutError:
                continue
            except ConnectionResetError:  # ended with a request of ours unread
                return b""

    def _note(self, what: bytes, number: int, value: int, living: dict[int, Worker]) -> None:
        """Note a report on the worker that it is about, or on modules."""
        self._starting = False
        if what == SETTLED:
            with self._lock:
                self._preloads_done = number
                self._note_settled()
        worker = living.get(number) if what != SETTLED else None
        if worker is None:
            return
        if what == BORN:
            worker.pid = worker.channel.peer = value
            worker.born_at = time.monotonic()
            worker.born.set()
            if worker.at_birth is not None:
                with contextlib.suppress(OSError):  # its cgroup is gone, and so is the worker
                    worker.at_birth()
            return
        del living[number]
        if what == REFUSED:
            worker.end(f"not started: {os.strerror(value)}")
        else:
            worker.end(how_ended(value))


def _command(fd: int, folder: str, since: float) -> list[str]:
    """Return the command that executes `fork_server.main` with this process's import path.

    Python starts without the working directory and PYTHONPATH: what `main` imports is the standard
    library's and this package's, whatever a tool has written into the program's folders.
    """
    flags: list[str] = getattr(subprocess, "_args_from_interpreter_flags")()  # noqa: B009
    path = [entry for entry in sys.path if isinstance(entry, str)]  # Python passes over others
    ours = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    code = (
        f"import sys; sys.path = [p for p in sys.path if p] + [{ours!r}]; "
        "from agentcgroup.isolation.fork_server import main; "
        f"main({fd}, {os.getpid()}, {folder!r}, {since!r}, {path!r}, "
        f"{os.environ.get('PYTHONPATH')!r})"
    )
    return [python(), *flags, "-c", code]
