"""What serves the calls of one session: policies, cgroups, deadlines, workers, monitor, records.

No user meets these objects: a user has the `Session` in front of them. Exactly one `Services` is
active in a process; seams and `spawn` look it up at each use, so that after `unregister` every hook
passes through.
"""

from __future__ import annotations

import itertools
import logging
import sys
import time
import uuid
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from agentcgroup import forks, scope, spawn
from agentcgroup.calls.deferred import DeferredJobs
from agentcgroup.calls.maintenance import Maintenance
from agentcgroup.calls.overdue import tell_overdue
from agentcgroup.calls.run_cgroups import RunCgroups
from agentcgroup.cgroup import Cgroup
from agentcgroup.config.policy import Resolver
from agentcgroup.config.tables import Config
from agentcgroup.enforcement.deadlines import Deadlines
from agentcgroup.enforcement.memory_sampling import MemorySampler
from agentcgroup.errors import CgroupUnavailable
from agentcgroup.interpreter import no_python
from agentcgroup.monitor.client import Monitor
from agentcgroup.place import dead_runs
from agentcgroup.place.owner import run_name
from agentcgroup.records.bus import RecordBus
from agentcgroup.records.ordering import Recorded
from agentcgroup.spawn import pools
from agentcgroup.threads import Lock

if TYPE_CHECKING:
    from agentcgroup.calls.call import Call
    from agentcgroup.isolation.warm_workers import WarmWorkers

__all__ = ["Services", "active", "set_active"]

logger = logging.getLogger("agentcgroup")

#: Number of different warnings that are remembered, so that each is given once.
_WARNINGS: Final = 1024
#: Seconds that `close` waits for deferred jobs.
CLOSE_WAIT: Final = 30.0
#: Seconds that `close` waits for observers of records.
_OBSERVERS_WAIT: Final = 5.0
#: Seconds that the end of a call in uWSGI's master process waits for the threads.
_REST_WAIT: Final = 1.0

_active: Services | None = None


def active() -> Services | None:
    """Return what serves calls now: None when nothing is registered, or the mode is ``off``."""
    services = _active
    if services is None or not (services.here[0] or services.start_over()):
        return None
    return services if services.working else None


def set_active(services: Services | None) -> None:
    """Make `services` those that hooks and `call` use."""
    global _active
    _active = services


class Services:
    """The services of one session.

    Attributes:
        config: the configuration.
        here: false at index 0 in a forked child that has not begun anew.
        id: unique over runs, processes and machines; the beginning of each call's id.
        since: when the run began, seconds of Unix time.
        epoch: Unix time minus `time.monotonic`, seconds.
        working: whether calls are contained and recorded: not with mode ``off``.
        limiting: whether limits are enforced: not with mode ``observe`` or ``off``.
        closed: whether the session is closed.
        resolver: the policies.
        finished: calls that have ended, or are about to, nearly in the order of their ends.
        bus: hands records to observers, on threads of its own.
        cgroups: the cgroups of the run.
        lock: guards what a call, or the session, makes once.
        numbers: counts the calls.
        running: the calls whose body runs now.
        deadlines: stops calls at their deadline.
        sampler: stops calls at memory_max where the kernel has no limit; None elsewhere.
        deferred: does what no call waits for.
        maintenance: what ended calls have detached and may go on for a time.
        monitor: what the kernel saw.
    """

    def __init__(self, config: Config) -> None:
        """Find where cgroups can be made; see `agentcgroup.register`.

        Raises:
            CgroupUnavailable: mode is ``enforce`` and something cannot be enforced here.
        """
        self.config = config
        self.since = time.time()
        self.epoch = self.since - time.monotonic()
        self.working = config.mode != "off" and sys.platform == "linux"
        self.closed = False
        self.resolver = Resolver(config, no_python())
        if self.working:
            self.resolver.check()
        self.finished: deque[Recorded] = deque(maxlen=config.records_max)
        self._warned: set[str] = set()
        self.bus = RecordBus()
        self.cgroups = RunCgroups(config, self.resolver, self.warn, self._announce)
        self.limiting = self.cgroups.limiting
        self._begin()
        self._reap()
        if self.monitor.awaited:  # a forked process starts its own with its first call
            self.monitor.start()

    def _begin(self) -> None:
        """Make what belongs to this very process; again in a forked one."""
        self.here = forks.mark()
        self.id = uuid.uuid4().hex[:12]
        self.numbers = itertools.count(1)
        self.running: set[Call] = set()
        self.lock = Lock()
        self.deadlines = Deadlines(self.running, tell_overdue)
        sampled = self.limiting and "memory" not in self.cgroups.place.controllers
        self.sampler = MemorySampler() if sampled else None
        self.deferred = DeferredJobs()
        self.maintenance = Maintenance(self)
        self.monitor = self._make_monitor()
        self._workers: WarmWorkers | None = None

    def _reap(self) -> None:
        """Kill what dead runs have left, and remove it at the first deferred job or the end.

        To remove waits for processes to die, on a thread. `register` starts none: gevent cannot
        patch where one lives, and raises.
        """
        if self.cgroups.place.base is not None:
            dead_runs.kill(self.cgroups.place)
            self.deferred.put_at_start(lambda: dead_runs.remove(self.cgroups.place))

    def ending(self, call: Recorded) -> None:
        """Keep a call and hand it to the observers, before the time of its end is taken.

        What reads them puts them in the order of their ends, waits until they are settled, and
        leaves out the second of two: a signal handler may raise before the end is taken.
        """
        if self.working:
            self.finished.append(call)
            if self.bus.subscriptions:
                self.bus.put(call)

    def rest(self) -> None:
        """At the end of a call in uWSGI's master process, finish what threads would do later.

        The master releases the interpreter's lock and then forks its workers. A worker hangs for
        ever where a thread has the lock at that moment: there is no such thread in the worker.
        """
        uwsgi: Any = sys.modules.get("uwsgi")  # a module of the program that has embedded Python
        if uwsgi is not None and uwsgi.worker_id() == 0:
            self.deferred.drain(_REST_WAIT)
            self.bus.drain(_REST_WAIT)

    def warn(self, message: str, about: str | None = None) -> None:
        """Log a warning, once per session, or once per session and what it is `about`."""
        about = about or message
        if about not in self._warned:
            if len(self._warned) >= _WARNINGS:  # names in them come from models
                self._warned.clear()
            self._warned.add(about)
            logger.warning("agentcgroup: %s", message)

    def workers(self) -> WarmWorkers:
        """Return the worker processes for tools whose body does not run in this process.

        Raises:
            CgroupUnavailable: the session is closed and has had none.
        """
        if self._workers is None:
            from agentcgroup.isolation.warm_workers import (
                WarmWorkers,  # only isolated calls import it
            )

            with self.lock:
                if self._workers is None:
                    if self.closed:  # nothing would end them
                        raise CgroupUnavailable(
                            "no worker process can be made: the session is closed"
                        )
                    self._workers = WarmWorkers(
                        _Background(self.cgroups),
                        self.config.workers,
                        self.deferred.put,
                        self.since,
                    )
        return self._workers

    def has_workers(self) -> bool:
        """Return whether the fork server runs."""
        return self._workers is not None and self._workers.is_running()

    def close(self) -> bool:
        """End what still runs and remove the run's cgroups; return False when that was done.

        In a forked child that has made no call there is nothing to end: all of it is the parent's.
        """
        if not self.here[0]:
            self.left_to_parent()
        with self.lock:
            if self.closed:
                return False
            self.closed = True
        self.cgroups.refuse_new()
        if _active is self:
            set_active(None)
        self.deadlines.close()
        self.deferred.close(CLOSE_WAIT)
        self.maintenance.close()
        if self._workers is not None:
            self._workers.close()
        scope.set_thread_tracker(None)
        self.monitor.close()
        self.cgroups.close(pools.processes())
        self.bus.close(_OBSERVERS_WAIT)
        return True

    def start_over(self) -> bool:
        """Begin anew in a forked child: the parent's threads and cgroups are not its own.

        A child that was forked inside a call, as multiprocessing does it, stays in that call's
        cgroup: nothing is begun for its own calls. Forked outside of every call, as a pre-fork
        server does it, the child is a run of its own.

        Returns:
            Whether this process's calls are served.
        """
        scope.set_thread_tracker(None)  # the thread slots are the parent's
        call = scope.current.get()
        if call is not None:
            self.left_to_parent()
            _abandon(call)
            return False
        self.finished.clear()
        self.bus = self.bus.forked()
        self.cgroups.start_over()
        self._begin()
        self._reap()
        return True

    def left_to_parent(self) -> None:
        """Serve no call in a forked child, and end nothing there: all of it is the parent's."""
        self.here = forks.mark()
        self.working, self.closed = False, True
        self.lock = Lock()  # the thread that held it is not in the child
        self.finished.clear()
        self.deferred = DeferredJobs()
        self.bus = RecordBus()
        if _active is self:
            set_active(None)

    def _announce(self, cgroup: Cgroup) -> None:
        self.monitor.made(cgroup)

    def _make_monitor(self) -> Monitor:
        asked, base = self.config.monitor, self.cgroups.place.base
        return Monitor(
            "off" if base is None else asked.backend,
            asked.detail,
            demanded=self.working and (asked.backend != "auto" or self.config.mode == "enforce"),
            kills=asked.escape == "kill",
            run="" if base is None else f"{base}/{run_name()}",
            joins=spawn.method().mode != "clone3",
            holding_cgroup=self.cgroups.holding_cgroup,
            on_ready=self._track_threads,
        )

    def _track_threads(self, monitor: Monitor) -> None:
        if not self.closed:
            scope.set_thread_tracker(monitor.working_for)


def _abandon(call: scope.SpawnTarget) -> None:
    """Drop, in a forked child, what belongs to the parent process's calls."""
    inherited: Any = call
    while hasattr(inherited, "abandon"):
        inherited.abandon()
        inherited = inherited.parent


class _Background:
    """The `scope.SpawnTarget` of processes that belong to no call: the run's background cgroup."""

    over = False

    def __init__(self, cgroups: RunCgroups) -> None:
        self._cgroups = cgroups

    def begin_spawn(self, failed: OSError | None = None) -> int | None:
        return None if failed is not None else self._cgroups.background_fd()

    def end_spawn(self, pid: int | None) -> None:
        pass

    def note_child(self, pid: int) -> None:
        pass

    def background(self) -> _Background:
        return self

    def note_helpers(self) -> None:
        pass
