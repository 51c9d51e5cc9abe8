"""Warm workers: forked ahead of need, each in the cgroup that its call will have.

Theory of operation: a worker that stands ready has been born in a fresh cgroup below the branch of
an agent, with the limits of a kind of call written; taking it is taking it off a **shelf** (one per
branch and set of limits), and nothing of the kernel is asked. What was taken is put back behind the
calls. A call that finds its shelf empty waits for a fork (some milliseconds). Whoever leaves one
empty has it made larger by one, so that a burst finds what the last one lacked; shelves that nobody
asks for shrink.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import sys
import threading
import time
from collections import deque

from agentcgroup import scope
from agentcgroup.cgroup import Limits
from agentcgroup.config.tables import Workers
from agentcgroup.containment.tree import Branch, discard
from agentcgroup.isolation.channel import Message
from agentcgroup.isolation.launcher import Launcher, Worker
from agentcgroup.isolation.worker import LEARNED

__all__ = ["WarmWorkers"]

logger = logging.getLogger("agentcgroup")

#: The tool is there for workers that have served it and may do so again.
_Kind = tuple[Branch, Limits, str | None]


class _Shelf:
    """The workers that stand ready for one kind of call."""

    __slots__ = ("asked", "coming", "ready", "wanted")

    def __init__(self) -> None:
        self.ready: deque[Worker] = deque()
        self.coming = 0
        self.wanted = 1
        self.asked = time.monotonic()

    def take(self, dead: list[Worker]) -> Worker | None:
        """Return the one that was used last, which is warmest; add to `dead` who has died here."""
        while self.ready:
            worker = self.ready.pop()
            if worker.how is None:
                return worker
            dead.append(worker)
        return None


class WarmWorkers:
    """Workers by branch and limits; safe to use from many threads."""

    def __init__(self, home: scope.SpawnTarget, settings: Workers) -> None:
        """Hold `home`, where the process lives that makes the workers."""
        self._launcher = Launcher(home, settings.idle / 2, self.sweep)
        self._settings = settings
        self._lock = threading.Lock()
        self._shelves: dict[_Kind, _Shelf] = {}
        self._closed = False

    def take(self, branch: Branch, limits: Limits, tool: str | None = None) -> Worker:
        """Return a worker in a cgroup of its own with these limits, ready or soon to be.

        With `tool` rather one that has served this tool before (see `give_back`).

        Raises:
            OSError: no cgroup, or no worker, can be made.
        """
        dead: list[Worker] = []
        with self._lock:
            worker = None
            if tool is not None and (branch, limits, tool) in self._shelves:
                worker = self._shelf((branch, limits, tool)).take(dead)
            if worker is None:
                shelf = self._shelf((branch, limits, None))
                worker = shelf.take(dead)
                if not shelf.ready:  # one call more at this moment would have had to wait
                    shelf.wanted = min(shelf.wanted + 1, self._settings.max)
        for one in dead:  # killed, or a zygote's that has ended
            self.drop(one)
        return worker if worker is not None else self._make(branch, limits)

    def give_back(self, worker: Worker, branch: Branch, limits: Limits, tool: str) -> None:
        """Put a worker where the next call of the same tool finds it, cgroup and all."""
        dropped: Worker | None = worker
        with self._lock:
            if not self._closed:
                shelf = self._shelf((branch, limits, tool))
                shelf.ready.append(worker)
                crowd = sum(len(one.ready) + one.coming for one in self._shelves.values())
                dropped = self._pop_oldest(but=shelf) if crowd > self._settings.max else None
        if dropped is not None:
            self.drop(dropped)

    def visitor(self, cgroup: int | None) -> Worker:
        """Return a worker that is born in somebody else's cgroup, or in none.

        Raises:
            OSError: no worker can be made.
        """
        return self._launcher.spawn(cgroup)

    def restock(self, branch: Branch, limits: Limits, most: int = sys.maxsize) -> None:
        """Fill the shelf of one kind of call again, by as many workers at most.

        Raises:
            OSError: a worker cannot be made; the next call tries for itself, and says why not.
        """
        while most > 0 and (shelf := self._reserve((branch, limits, None))) is not None:
            most -= 1
            worker: Worker | None = None
            try:
                worker = self._make(branch, limits)
                if worker.cgroup is not None:
                    worker.cgroup.keep_open(processes=True)
            finally:
                with self._lock:
                    shelf.coming -= 1
                    there = self._shelves.get((branch, limits, None)) is shelf
                    if worker is not None and there and not self._closed:
                        shelf.ready.append(worker)
                        worker = None
                if worker is not None:
                    self.drop(worker)

    def bare(self, branch: Branch, limits: Limits) -> bool:
        """Say whether the next call of this kind would have to wait for a fork."""
        shelf = self._shelves.get((branch, limits, None))
        return shelf is None or not shelf.ready

    def learn(self, message: Message) -> None:
        """Have the modules that a worker has imported ready in those to come."""
        if message.kind == LEARNED:
            self._launcher.preload(bytes(message.pickle).decode().split("\n"))

    def settle(self) -> None:
        """Wait until every worker that has been asked for is born; for measurements."""
        with self._lock:
            ready = [worker for shelf in self._shelves.values() for worker in shelf.ready]
        for worker in ready:
            worker.born.wait()

    def leave(self, worker: Worker) -> None:
        """Let go of a worker after its call; hear first what modules its body has imported."""
        with contextlib.suppress(Exception):  # a tool may have said anything on its way out
            while isinstance(message := worker.channel.glance(), Message):
                self.learn(message)
        worker.channel.close()
        if worker.meter is not None:
            worker.meter.close()
        shutil.rmtree(worker.folder, ignore_errors=True)

    def drop(self, worker: Worker) -> None:
        """End a worker that stands ready, and remove its cgroup."""
        if worker.settle is not None:
            worker.settle()
        try:
            if worker.cgroup is not None:
                discard(worker.cgroup)
        except OSError as error:
            logger.warning("agentcgroup: a worker that was not needed is left over: %s", error)
        self.leave(worker)

    def sweep(self) -> None:
        """End workers that have stood ready for longer than the settings say."""
        horizon = time.monotonic() - self._settings.idle
        self._forget_empty(horizon)
        while True:
            with self._lock:
                standing = sum(len(shelf.ready) for shelf in self._shelves.values())
                if not self._shelves or standing <= self._settings.min:
                    return
                kind, oldest = self._by_age()[0]
                if oldest.asked > horizon:
                    return
                worker = oldest.ready.popleft() if oldest.ready else None
                oldest.wanted = max(1, oldest.wanted - 1)
                if not oldest.ready:
                    del self._shelves[kind]
            if worker is not None:
                self.drop(worker)

    def close(self) -> None:
        """End every worker and what makes them."""
        with self._lock:
            self._closed = True
        self._launcher.close()
        with self._lock:
            ready = [worker for shelf in self._shelves.values() for worker in shelf.ready]
            self._shelves.clear()
        for worker in ready:
            self.drop(worker)

    # -- inside -----------------------------------------------------------------------------------

    def _make(self, branch: Branch, limits: Limits) -> Worker:
        cgroup = branch.take(limits)
        try:
            worker = self._launcher.spawn(cgroup.fd)
        except BaseException:
            discard(cgroup)
            raise
        worker.cgroup = cgroup
        return worker

    def _reserve(self, kind: _Kind) -> _Shelf | None:
        """Return the shelf of this kind when another worker is to stand on it, having made room."""
        with self._lock:
            shelf = self._shelves.get(kind)
            if self._closed or shelf is None or len(shelf.ready) + shelf.coming >= shelf.wanted:
                return None
            crowd = sum(len(one.ready) + one.coming for one in self._shelves.values())
            dropped = self._pop_oldest(but=shelf) if crowd >= self._settings.max else None
            if dropped is None and crowd >= self._settings.max:
                return None
            shelf.coming += 1
        if dropped is not None:
            self.drop(dropped)
        return shelf

    def _shelf(self, kind: _Kind) -> _Shelf:
        shelf = self._shelves.get(kind)
        if shelf is None:
            shelf = self._shelves[kind] = _Shelf()
        shelf.asked = time.monotonic()
        return shelf

    def _forget_empty(self, horizon: float) -> None:
        """Drop shelves on which nothing stands: of agents and calls that may never come again."""
        with self._lock:
            for kind, shelf in list(self._shelves.items()):
                if shelf.asked <= horizon and not shelf.ready and not shelf.coming:
                    del self._shelves[kind]

    def _by_age(self) -> list[tuple[_Kind, _Shelf]]:
        """Return the shelves, those first that nobody has asked for the longest."""
        return sorted(self._shelves.items(), key=lambda item: item[1].asked)

    def _pop_oldest(self, but: _Shelf) -> Worker | None:
        for kind, shelf in self._by_age():
            if shelf is not but and shelf.ready:
                oldest = shelf.ready.popleft()
                if not shelf.ready and not shelf.coming:
                    del self._shelves[kind]
                return oldest
        return None
