"""The zygote as the app sees it: it starts one, asks it for workers, and hears how they end.

One thread of ours starts the zygote and then reads its reports; it lives as long as the zygote,
because the zygote ends with the thread that has started it (PR_SET_PDEATHSIG). Requests need not
wait for anything: they, and a call for a worker that is not born yet, stand in the sockets.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final

from agentcgroup import scope
from agentcgroup.cgroup import Cgroup, Meter
from agentcgroup.isolation import fork_server
from agentcgroup.isolation.channel import Channel, socket_pair
from agentcgroup.isolation.environment import Baggage, Surroundings

__all__ = ["Launcher", "Worker"]

logger = logging.getLogger("agentcgroup")

#: Characters of names in one request; a message of the socket takes more.
_LONGEST_REQUEST: Final = 60_000


class Worker:
    """One worker process.

    Attributes:
        channel: our end of the socket to it.
        cgroup: the cgroup made for it, None when it was born in another's or in none.
        pid: None until it is known.
        how: how it ended, such as "exited: 0", "crashed: SIGSEGV", or "lost: ..." where that was
            none of its doing; None while it lives.
        ended: set when `how` is.
        at_birth: called once it is born, None for nothing: its call may be over by then.
        done: it has answered all it was asked.
        calls: how many it has been given.
        stays: it waits for another call after the present one.
        meter: tells apart what they used, where it serves more than one.
        settle: reads what its last call has used, where that has not been done.
        pids_max: forks that had been refused before its present call.
        worn: the surroundings that its last call came with.
    """

    def __init__(self, number: int, channel: Channel, folder: str, surroundings: Surroundings):
        self.number = number
        self.channel = channel
        self.folder = folder
        self.surroundings = surroundings
        self.cgroup: Cgroup | None = None
        self.pid: int | None = None
        self.how: str | None = None
        self.ended = threading.Event()
        self.born = threading.Event()
        self.at_birth: Callable[[], object] | None = None
        self.done = True
        self.calls = 0
        self.stays = False
        self.meter: Meter | None = None
        self.settle: Callable[[], object] | None = None
        self.pids_max = 0
        self.worn: Baggage = {}

    def end(self, how: str) -> None:
        """Note how it ended, and wake who waits for its answer."""
        self.how = how
        self.born.set()
        self.ended.set()
        self.channel.shut()


class Launcher:
    """Starts the zygote at the first need, and again should it end."""

    def __init__(self, home: scope.SpawnTarget, pause: float, on_pause: Callable[[], None]) -> None:
        """Hold `home`, which says in what cgroup the zygote itself is born.

        `on_pause` is called every `pause` seconds.
        """
        self._home = home
        self._pause = pause
        self._on_pause = on_pause
        self._paused = time.monotonic()
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._control: socket.socket | None = None
        self._living: dict[int, Worker] = {}
        self._folder = ""
        self._surroundings = Surroundings("", (0, 0), {}, [])
        self._known: set[str] = set()
        self._thread: threading.Thread | None = None
        self._closed = False

    def spawn(self, cgroup: int | None) -> Worker:
        """Ask for a worker in the cgroup whose directory this is; returns before it is born.

        Raises:
            OSError: the zygote takes no requests.
        """
        with self._lock:
            try:
                return self._ask(cgroup)
            except (BrokenPipeError, ConnectionResetError):
                # It has just ended, with requests unread perhaps; its keeper will say so.
                self._control = None
                return self._ask(cgroup)

    def preload(self, names: Iterable[str]) -> None:
        """Have modules imported where later workers have them from their birth."""
        with self._lock:
            new = [name for name in names if name not in self._known]
            self._known.update(new)
            if self._control is None:
                return
            with contextlib.suppress(OSError):
                while new:
                    part, size = [], 0
                    while new and size < _LONGEST_REQUEST:
                        part.append(new.pop(0))
                        size += len(part[-1]) + 4
                    self._control.send(fork_server.PRELOAD + json.dumps(part).encode())

    def close(self) -> None:
        """End the zygote and with it every worker."""
        with self._lock:
            self._closed = True
            control, self._control = self._control, None
            thread = self._thread
        if control is not None:
            with contextlib.suppress(OSError):
                control.shutdown(socket.SHUT_RDWR)
        if thread is not None and thread is not threading.current_thread():
            thread.join(10)

    # -- inside -----------------------------------------------------------------------------------

    def _ask(self, cgroup: int | None) -> Worker:
        control = self._running()
        ours, theirs = Channel.pair()
        number = next(self._numbers)
        worker = Worker(number, ours, f"{self._folder}/{number}", self._surroundings)
        request = json.dumps({"number": number, "folder": worker.folder}).encode()
        fds = [theirs.fileno()] if cgroup is None else [theirs.fileno(), cgroup]
        self._living[number] = worker
        try:
            socket.send_fds(control, [fork_server.SPAWN, request], fds)
        except OSError:
            del self._living[number]
            ours.close()
            raise
        finally:
            theirs.close()
        return worker

    def _running(self) -> socket.socket:
        """Return the socket to the zygote, which is started where there is none."""
        if self._closed:
            raise OSError("the session is closed")
        if self._control is None:
            ours, theirs = socket_pair()
            self._folder = tempfile.mkdtemp(prefix="agentcgroup-")
            self._surroundings = Surroundings.now()
            self._control = ours
            self._living = {}
            self._known = set()
            folder, living = self._folder, self._living
            self._thread = scope.start_thread(
                lambda: self._keep(ours, theirs, folder, living), "workers"
            )
        return self._control

    def _keep(
        self, ours: socket.socket, theirs: socket.socket, folder: str, living: dict[int, Worker]
    ) -> None:
        """Start a zygote and hear its reports until it ends."""
        process = None
        try:
            scope.current.set(self._home)
            process = subprocess.Popen(
                fork_server.command(theirs.fileno(), folder),
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
            scope.current.set(None)
            theirs.close()
            ours.settimeout(self._pause)  # of both directions; requests are far from filling it
            while report := self._next_report(ours):
                what, number, value = fork_server.REPORT.unpack(report)
                self._hear(what, number, value, living)
        except Exception:
            logger.exception("agentcgroup: the process that makes workers cannot be kept")
        theirs.close()
        with self._lock:
            expected = self._closed
            if self._control is ours:
                self._control = None
        ours.close()  # which ends it where the fault was ours
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

    def _next_report(self, control: socket.socket) -> bytes:
        while True:
            if time.monotonic() - self._paused >= self._pause:
                self._paused = time.monotonic()
                self._on_pause()
            try:
                return control.recv(fork_server.REPORT.size)
            except TimeoutError:
                continue
            except ConnectionResetError:  # ended with a request of ours unread
                return b""

    def _hear(self, what: bytes, number: int, value: int, living: dict[int, Worker]) -> None:
        worker = living.get(number)
        if worker is None:
            return
        if what == fork_server.BORN:
            worker.pid = value
            worker.born.set()
            if worker.at_birth is not None:
                with contextlib.suppress(OSError):  # its cgroup is gone, and it with it
                    worker.at_birth()
            return
        del living[number]
        if what == fork_server.REFUSED:
            worker.end(f"not started: {os.strerror(value)}")
        else:
            worker.end(_told(value))


def _told(status: int) -> str:
    """Return a wait status in words."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exited: {code}"
    try:
        return f"crashed: {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal
        return f"crashed: signal {-code}"
