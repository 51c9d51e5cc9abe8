"""Warm workers: forked before a call needs them, each in the cgroup that its call will have.

Theory of operation: workers are kept ready per **kind** of call, that is, per branch of the cgroup
tree, set of limits and, where a worker may serve a tool again, tool. A ready worker has been born
in a fresh cgroup with the limits written, so that a call takes it without asking the kernel for
anything. While a call runs, or after it, its worker is replaced. A call whose kind has no ready
worker waits for a fork (some milliseconds). A call that takes the last ready worker of its kind
raises the number wanted by one, so that the next burst finds more; kinds that no call has asked for
lately lose theirs.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable

from agentcgroup import scope
from agentcgroup.cgroup import Limits
from agentcgroup.config.tables import Workers
from agentcgroup.containment.tree import Branch, discard
from agentcgroup.isolation.launcher import Launcher
from agentcgroup.isolation.messages import Message
from agentcgroup.isolation.protocol import LEARNED
from agentcgroup.isolation.worker_handle import Worker
from agentcgroup.threads import Lock

__all__ = ["WarmWorkers"]

logger = logging.getLogger("agentcgroup")

#: The tool is None for workers that have served no call.
_Kind = tuple[Branch, Limits, str | None]


class _Ready:
    """The ready workers of one kind.

    Attributes:
        workers: the one that was used last at the right.
        starting: number of workers that are being made for it.
        wanted: number of workers that it should have.
        asked: when a call has last asked for one, by the monotonic clock.
    """

    __slots__ = ("asked", "starting", "wanted", "workers")

    def __init__(self) -> None:
        self.workers: deque[Worker] = deque()
        self.starting = 0
        self.wanted = 1
        self.asked = time.monotonic()

    def take(self, dead: list[Worker]) -> Worker | None:
        """Return the worker that was used last, whose caches are warmest; add dead ones to `dead`.

        Returns:
            None where no worker is left.
        """
        while self.workers:
            worker = self.workers.pop()
            if worker.how is None:
                return worker
            dead.append(worker)
        return None


class WarmWorkers:
    """The ready workers of a session; safe to use from many threads."""

    def __init__(
        self,
        target: scope.SpawnTarget,
        config: Workers,
        defer: Callable[[Callable[[], None]], None],
        since: float,
    ) -> None:
        """Start nothing yet.

        Args:
            target: the fork server is born in its cgroup.
            config: the table ``[workers]``.
            defer: has a job done soon, on a thread where it may wait.
            since: Unix time; the fork server imports no file that is newer.
        """
        self._defer = defer
        self._launcher = Launcher(target, config.idle / 2, self.sweep, defer, since)
        self.wait_preloaded = self._launcher.wait_preloaded
        self._config = config
        self._lock = Lock()
        self._ready: dict[_Kind, _Ready] = {}
        self._closed = False

    def take(self, branch: Branch, limits: Limits, tool: str | None = None) -> Worker:
        """Return a worker in a cgroup of its own with these limits; it may not be born yet.

        Args:
            branch: the cgroup is made below it.
            limits: limits of the cgroup.
            tool: prefer a worker that `give_back` has put back for this tool.

        Raises:
            OSError: no cgroup, or no worker, can be made.
        """
        dead: list[Worker] = []
        with self._lock:
            worker = None
            if tool is not None and (branch, limits, tool) in self._ready:
                worker = self._of((branch, limits, tool)).take(dead)
            if worker is None:
                ready = self._of((branch, limits, None))
                worker = ready.take(dead)
                if not ready.workers:  # one more call at this moment would have had to wait
                    ready.wanted = min(ready.wanted + 1, self._config.max)
        for one in dead:  # killed, or ended with their fork server
            self._retire(one)
        return worker if worker is not None else self._make(branch, limits)

    def give_back(self, worker: Worker, branch: Branch, limits: Limits, tool: str) -> None:
        """Keep a worker with its cgroup ready for the next call of the same tool."""
        discarded: Worker | None = worker
        with self._lock:
            if not self._closed:
                ready = self._of((branch, limits, tool))
                ready.workers.append(worker)
                total = sum(len(one.workers) + one.starting for one in self._ready.values())
                discarded = self._pop_oldest(but=ready) if total > self._config.max else None
        if discarded is not None:
            self._retire(discarded)

    def worker_in(self, cgroup: int | None) -> Worker:
        """Return a worker that is born in an existing cgroup.

        Args:
            cgroup: file descriptor of the cgroup's directory; None for the fork server's cgroup.

        Raises:
            OSError: no worker can be made.
        """
        return self._launcher.spawn(cgroup)

    def restock(self, branch: Branch, limits: Limits, most: int = sys.maxsize) -> None:
        """Make the workers that one kind lacks, but `most` at most.

        Raises:
            OSError: a worker cannot be made; the next call tries again and reports the error.
        """
        kind = (branch, limits, None)
        while most > 0 and (ready := self._reserve(kind)) is not None:
            most -= 1
            worker: Worker | None = None
            try:
                worker = self._make(branch, limits)
                if worker.cgroup is not None:
                    worker.cgroup.keep_open(processes=True)
            finally:
                with self._lock:
                    ready.starting -= 1
                    is_kept = self._ready.get(kind) is ready
                    if worker is not None and is_kept and not self._closed:
                        ready.workers.append(worker)
                        worker = None
                if worker is not None:
                    self._discard(worker)

    def bare(self, branch: Branch, limits: Limits) -> bool:
        """Return whether the next call of this kind would have to wait for a fork."""
        ready = self._ready.get((branch, limits, None))
        return ready is None or not ready.workers

    def is_running(self) -> bool:
        """Return whether the fork server runs."""
        return self._launcher.is_running()

    def learn(self, message: Message) -> None:
        """Have the modules that a worker names in a LEARNED message imported for later workers."""
        if message.kind == LEARNED and not message.is_large():  # a worker sends some hundred names
            self._launcher.preload(bytes(message.pickle).decode(errors="replace").split("\n"))

    def wait_born(self) -> None:
        """Wait until every ready worker is born; for measurements and tests."""
        with self._lock:
            workers = [worker for ready in self._ready.values() for worker in ready.workers]
        for worker in workers:
            worker.born.wait()

    def leave(self, worker: Worker) -> None:
        """Close a worker's channel and remove its folder, after its last call.

        The worker sends the names of the modules that it has imported after its answer; they are
        read first.
        """
        with contextlib.suppress(Exception):  # a tool may have sent anything
            while isinstance(message := worker.channel.receive_nowait(), Message):
                self.learn(message)
        worker.channel.close()
        if worker.meter is not None:
            worker.meter.close()
        shutil.rmtree(worker.folder, ignore_errors=True)

    def sweep(self) -> None:
        """End workers whose kind no call has asked for within the configured time."""
        horizon = time.monotonic() - self._config.idle
        self._forget_empty(horizon)
        while True:
            with self._lock:
                total = sum(len(ready.workers) for ready in self._ready.values())
                if not self._ready or total <= self._config.min:
                    return
                kind, oldest = self._by_age()[0]
                if oldest.asked > horizon:
                    return
                worker = oldest.workers.popleft() if oldest.workers else None
                oldest.wanted = max(1, oldest.wanted - 1)
                if not oldest.workers:
                    del self._ready[kind]
            if worker is not None:
                self._discard(worker)

    def close(self) -> None:
        """End every worker and the fork server."""
        with self._lock:
            self._closed = True
        self._launcher.close()
        with self._lock:
            workers = [worker for ready in self._ready.values() for worker in ready.workers]
            self._ready.clear()
        for worker in workers:
            self._discard(worker)

    # -- inside -----------------------------------------------------------------------------------

    def _make(self, branch: Branch, limits: Limits) -> Worker:
        cgroup = branch.take(limits)
        try:
            if not cgroup.exists():  # removed by another program; the fork server tells it too late
                raise FileNotFoundError(errno.ENOENT, "the cgroup is gone", cgroup.path)
            worker = self._launcher.spawn(cgroup.fd)
        except BaseException:
            discard(cgroup)
            raise
        worker.cgroup = cgroup
        return worker

    def _retire(self, worker: Worker) -> None:
        """Kill a worker that serves no call; a deferred job removes its cgroup.

        An event loop may call it.
        """
        if worker.cgroup is not None:
            with contextlib.suppress(OSError):  # the job kills again, and reports it
                worker.cgroup.kill()
        self._defer(functools.partial(self._discard, worker))

    def _discard(self, worker: Worker) -> None:
        """End a worker that serves no call, and remove its cgroup."""
        if worker.read_usage is not None:
            worker.read_usage()
        try:
            if worker.cgroup is not None:
                discard(worker.cgroup)
        except OSError as error:
            logger.warning(
                "agentcgroup: the cgroup of an unused worker cannot be removed: %s", error
            )
        self.leave(worker)

    def _reserve(self, kind: _Kind) -> _Ready | None:
        """Return the ready workers of a kind if another one is to be made for them.

        Where the configured number of workers is reached, one of the kind that calls have asked for
        the longest ago is ended in exchange.
        """
        with self._lock:
            ready = self._ready.get(kind)
            if self._closed or ready is None or len(ready.workers) + ready.starting >= ready.wanted:
                return None
            total = sum(len(one.workers) + one.starting for one in self._ready.values())
            discarded = self._pop_oldest(but=ready) if total >= self._config.max else None
            if discarded is None and total >= self._config.max:
                return None
            ready.starting += 1
        if discarded is not None:
            self._retire(discarded)
        return ready

    def _of(self, kind: _Kind) -> _Ready:
        """Return the ready workers of a kind that a call asks for; call it with the lock."""
        ready = self._ready.get(kind)
        if ready is None:
            ready = self._ready[kind] = _Ready()
        ready.asked = time.monotonic()
        return ready

    def _forget_empty(self, horizon: float) -> None:
        """Forget kinds without workers, whose agents and calls may never come again."""
        with self._lock:
            for kind, ready in list(self._ready.items()):
                if ready.asked <= horizon and not ready.workers and not ready.starting:
                    del self._ready[kind]

    def _by_age(self) -> list[tuple[_Kind, _Ready]]:
        """Return the kinds, the one that calls have asked for the longest ago first."""
        return sorted(self._ready.items(), key=lambda item: item[1].asked)

    def _pop_oldest(self, but: _Ready) -> Worker | None:
        """Remove and return a worker of the oldest kind that has one, and is not `but`."""
        for kind, ready in self._by_age():
            if ready is not but and ready.workers:
                oldest = ready.workers.popleft()
                if not ready.workers and not ready.starting:
                    del self._ready[kind]
                return oldest
        return None
