"""A run: one registered process, its agents, its calls and their records.

The session owns what outlives a call: where cgroups are made (`Place`), the run's own cgroup, the
watcher and the janitor, the records. Exactly one is active in a process; adapters and `spawn` ask
for it at each use, so that unregistering leaves every hook an inert pass-through.
"""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import logging
import os
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from agentcgroup import scope, spawn
from agentcgroup.calls.call import Call
from agentcgroup.calls.deferred import DeferredJobs
from agentcgroup.cgroup import Cgroup, Limits, controller_of
from agentcgroup.cgroup.limits import LIMITS
from agentcgroup.config.loading import Config
from agentcgroup.config.policy import Resolver
from agentcgroup.containment.tree import Branch, Roots
from agentcgroup.enforcement.deadlines import Deadlines
from agentcgroup.enforcement.memory_sampling import MemorySampler
from agentcgroup.errors import CgroupUnavailable, ConfigError
from agentcgroup.monitor.client import Monitor
from agentcgroup.monitor.events import Event, Stream
from agentcgroup.place.owner import reap, run_name
from agentcgroup.place.place import Place, bases, find, teardown
from agentcgroup.records.record import CallRecord, JsonLines

if TYPE_CHECKING:
    from agentcgroup.isolation.warm_workers import WarmWorkers

__all__ = ["Session", "active", "registered", "set_active"]

logger = logging.getLogger("agentcgroup")

#: Warnings that are known to have been given.
_SAID = 1024
_CLOSE_WAIT = 30.0

_active: Session | None = None


def active() -> Session | None:
    """Return the session that hooks work for: None when nothing is registered, or mode is off."""
    return _active if _active is not None and _active.working else None


def registered() -> Session | None:
    """Return the session of this process, working or off."""
    return _active


def set_active(session: Session | None) -> None:
    """Make `session` the one that hooks and `call` use."""
    global _active
    _active = session


class Session:
    """One registered run; made by `register`, ended by `unregister`, `close` or the process's end.

    Usable as a context manager.
    """

    def __init__(self, config: Config) -> None:
        """Find where cgroups can be made and take it; see `agentcgroup.register`.

        Raises:
            CgroupUnavailable: mode is ``enforce`` and something cannot be enforced here.
            ConfigError: the file for records cannot be written.
        """
        self.config = config
        self.id = uuid.uuid4().hex[:12]
        self.epoch = time.time() - time.monotonic()  # turns one clock into the other
        asked = config.mode != "off"
        self.working = asked and sys.platform == "linux"
        self.limiting = config.mode in ("auto", "enforce")
        self._resolver = Resolver(config)
        self._finished: deque[Call] = deque(maxlen=config.records_max)
        self._callbacks: list[Callable[[CallRecord], None]] = []
        self._said: set[str] = set()
        self._streams: list[Stream] = []
        self.closed = False
        self._sink = _open_sink(config)
        if self._sink is not None:
            self._callbacks.append(self._sink)
        self.place = (
            find(config.cgroup_root, self._resolver.controllers())
            if asked
            else Place(base=None, kind="none")
        )
        self._check(self.place)
        self._begin()

    def _begin(self) -> None:
        """Make what belongs to this very process; again in a forked one."""
        self._numbers = itertools.count(1)
        self.lock = threading.Lock()
        self._run: Branch | None = None
        self.watcher = Deadlines()
        # What the kernel cannot limit here is looked after from time to time.
        sampled = self.limiting and "memory" not in self.place.controllers
        self.sampler = MemorySampler() if sampled else None
        self.janitor = DeferredJobs()
        self.monitor = self._make_monitor()
        self.roots = self._make_roots(frozenset())
        self._workers: WarmWorkers | None = None
        if self.place.base is not None:
            self.janitor.put(self._reap)

    # -- what users see -----------------------------------------------------------------------

    @property
    def records(self) -> Sequence[CallRecord]:
        """Finished calls, oldest first, at most ``records_max`` of them."""
        self.janitor.drain(_CLOSE_WAIT)
        return tuple(call.record for call in self._finished)

    def on_record(self, callback: Callable[[CallRecord], None]) -> None:
        """Call `callback` with each record from now on, on whatever thread has it first.

        A call that met no limit is handed out when calls pause (for 10 ms, at most 0.1 s where
        they take long) or 64 of them wait. What the callback raises is logged and hurts no call.
        """
        self._callbacks.append(callback)

    def on_event(self, callback: Callable[[Event], None]) -> None:
        """Call `callback` with what happens in calls from now on, on a thread of ours.

        The events of all processes of all calls, as the monitor sees them; none where there is no
        monitor (`agentcgroup doctor` says why). What the callback raises is logged and hurts no
        call; while it runs no other event comes.
        """
        self.monitor.listen(callback)

    def stream(self) -> Stream:
        """Return the same events to iterate over, for a thread of your own; close it at the end."""
        stream = Stream(lambda closed: self.monitor.unlisten(closed.put))
        self._streams.append(stream)
        self.monitor.listen(stream.put)
        return stream

    def close(self) -> None:
        """End what still runs, hand out the last records and remove the run's cgroups."""
        with self.lock:
            if self.closed:
                return
            self.closed = True
        if _active is self:
            set_active(None)
        self.watcher.close()
        self.janitor.close(_CLOSE_WAIT)
        if self._workers is not None:
            self._workers.close()
        scope.set_seating(None)
        self.monitor.close()
        for stream in self._streams:
            stream.close()
        run, self._run = self._run, None
        if run is not None:
            try:
                run.remove()
            except OSError as error:
                logger.warning("agentcgroup: cgroups of this run are left over: %s", error)
        teardown(self.place)
        if self._sink is not None:
            self._sink.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # -- what adapters and calls use ------------------------------------------------------------

    def start(
        self,
        framework: str,
        agent: str | None,
        tool: str,
        tool_call_id: str | None = None,
        *,
        key: object = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> Call:
        """Open a call; the caller runs the body with it and finishes it (see `execution`).

        Args:
            framework: the adapter's name.
            agent: the agent's name, None when the framework gives none.
            tool: the tool's name.
            tool_call_id: the model's id of the call.
            key: the tool object; tells a framework's re-entry into the same call from a new one.
            overrides: limits given in code, which win over the config.
        """
        if agent is None:
            named = scope.agent.get()
            if named is not None:
                agent = named.name
        policy = self._resolver.call(framework, agent, tool, **(overrides or {}))
        parent = scope.current.get()
        if not isinstance(parent, Call) or parent.session is not self:
            parent = None
        call = Call(
            self,
            next(self._numbers),
            policy,
            parent,
            framework,
            agent,
            tool,
            tool_call_id,
            key,
        )
        if self.monitor.state != "off":
            self.monitor.start()
            call.sitting = self.monitor.sit(call)
        noted = scope.started.get()
        if noted is not None:
            noted.append(call)
        return call

    def settled(self, call: Call) -> None:
        """Keep a finished call and hand out its record, made on demand when nobody listens."""
        if not self.working:
            return
        self._finished.append(call)
        for callback in self._callbacks:
            record = call.record
            try:
                callback(record)
            except (Exception, SystemExit):
                logger.exception("agentcgroup: an on_record callback failed")

    def say(self, message: str) -> None:
        """Warn of something once, however often it comes."""
        if message not in self._said:
            if len(self._said) >= _SAID:  # names in them come from models
                self._said.clear()
            self._said.add(message)
            logger.warning("agentcgroup: %s", message)

    def branch(self) -> Branch | None:
        """Return the run's branch, made at the first need; None where there is no place."""
        if self._run is None and self.place.base is not None:
            with self.lock:
                if self._run is None and not self.closed:
                    self._run = self._make_run()
        return self._run

    def background_fd(self) -> int | None:
        """Return the directory fd for processes that belong to no running call."""
        try:
            run = self.branch()
            return None if run is None else run.background().fd
        except OSError as error:
            self.uncontained(error)
            return None

    def uncontained(self, error: OSError) -> None:
        """Make of a failure to contain what the mode asks for: refuse, or go on and be loud.

        Raises:
            CgroupUnavailable: mode is ``enforce``.
        """
        if self.config.mode == "enforce":
            raise CgroupUnavailable(
                f"A call cannot be given its cgroup: {error}.",
                fix='see `agentcgroup doctor`, or set mode = "auto" to run it uncontained',
            ) from error
        logger.error("agentcgroup: a call runs UNCONTAINED", exc_info=error)

    def workers(self) -> WarmWorkers:
        """Return the worker processes for tools whose body does not run in this one.

        Raises:
            CgroupUnavailable: the session is closed and has had none.
        """
        if self._workers is None:
            from agentcgroup.isolation.warm_workers import (
                WarmWorkers,  # only who isolates pays for the import
            )

            with self.lock:
                if self._workers is None:
                    if self.closed:  # nobody would end them
                        raise CgroupUnavailable(
                            "no worker process can be made: the session is closed"
                        )
                    self._workers = WarmWorkers(_Background(self), self.config.workers)
        return self._workers

    def agent_branch(self, above: Branch, framework: str, agent: str | None) -> Branch:
        """Return the branch of an agent below the run or below a call."""

        def limits() -> Limits:
            asked = self._resolver.agent(framework, agent)
            named = scope.agent.get()
            if named is not None and named.name == agent:
                return self._resolver.override_agent(asked, **named.limits)
            return asked

        return above.agent(framework, agent, limits)

    def forked(self) -> None:
        """Start over in a forked child: the parent's threads and cgroups are not ours."""
        self._finished.clear()
        self._begin()

    def left_to_parent(self, call: Call) -> None:
        """End nothing, in a child forked inside `call`: not that call, nor the run at its exit."""
        self.working, self.closed = False, True
        self.lock = threading.Lock()  # whoever held it is not here
        inherited: Call | None = call
        while inherited is not None:
            inherited.enclosure = inherited.sitting = None
            inherited = inherited.parent

    # -- inside -----------------------------------------------------------------------------------

    def _make_run(self) -> Branch | None:
        if self.place.base is not None and not os.path.isdir(self.place.base):
            # Another program, the last one there, took it for unused and removed it. What `find`
            # starts to try the place is not of the call that is waiting here.
            self.place = contextvars.Context().run(
                find, self.config.cgroup_root, self._resolver.controllers()
            )
            self._check(self.place)
        if self.place.base is None:
            return None
        with contextlib.closing(Cgroup.open(self.place.base)) as parent:
            cgroup = parent.child(run_name(), exist_ok=True)
        self.roots = self._make_roots(self.place.controllers)
        self.roots.limit(cgroup, self._resolver.run())
        return Branch(cgroup, self.roots)

    def _make_roots(self, controllers: frozenset[str]) -> Roots:
        return Roots(controllers, self._unmet, on_made=self.monitor.made, limiting=self.limiting)

    def _make_monitor(self) -> Monitor:
        asked, base = self.config.monitor, self.place.base
        monitor = Monitor(
            "off" if base is None else asked.backend,
            asked.detail,
            kills=asked.escape == "kill",
            run="" if base is None else f"{base}/{run_name()}",
            joins=spawn.facts().mode != "clone3",
        )
        monitor.harbour = self._harbour
        monitor.on_ready = self._watched
        return monitor

    def _watched(self) -> None:
        if not self.closed:
            scope.set_seating(self.monitor.seated)

    def _harbour(self) -> str | None:
        """Return the cgroup that takes a call's processes in until the call has one."""
        try:
            run = self.branch()
            return None if run is None else run.background().path
        except OSError as error:
            logger.warning("agentcgroup: no cgroup for processes born outside: %s", error)
            return None

    def _reap(self) -> None:
        """Remove what dead runs left behind."""
        for path in bases(self.place):
            with (
                contextlib.suppress(FileNotFoundError),  # a scope that has just ended
                contextlib.closing(Cgroup.open(path)) as base,
            ):
                for reaped in reap(base):
                    if reaped.error is None:
                        logger.info("agentcgroup: removed %s, left by a run that died", reaped.path)
                    else:
                        logger.warning("agentcgroup: left by a run that died: %s", reaped.error)

    def _check(self, place: Place) -> None:
        """Say once what of the config is not enforced here; refuse where the mode asks for it."""
        needed = self._resolver.controllers()
        problems = [
            problem
            for problem in place.problems
            if not problem.controllers or problem.controllers & needed
        ]
        if not problems:
            return
        told = "; ".join(f"{problem.what}: {problem.why.rstrip('.')}" for problem in problems)
        if self.config.mode == "enforce":
            fixes = [problem.fix for problem in problems if problem.fix]
            raise CgroupUnavailable(
                f'mode = "enforce", but not everything can be enforced here: {told}.',
                fix="; ".join(fixes) or None,
            )
        self.say(f"not enforced here: {told}. `agentcgroup doctor` says more.")

    def _unmet(self, path: str, keys: frozenset[str]) -> None:
        """Report limits that were not written; `_check` has reported missing controllers."""
        known = self.place.controllers
        names = ", ".join(sorted(k for k in keys if k not in LIMITS or controller_of(k) in known))
        if not names:
            return
        if self.config.mode == "enforce":
            raise OSError(f"{path} does not take {names}")
        self.say(f"this kernel has no {names}: not enforced")


class _Background:
    """The `scope.SpawnTarget` of what is no call's: the run's own leaf."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def begin_spawn(self, failed: OSError | None = None) -> int | None:
        return None if failed is not None else self._session.background_fd()

    def end_spawn(self, pid: int | None) -> None:
        pass


def _open_sink(config: Config) -> JsonLines | None:
    path, source = config.records, config.source
    if not path:
        return None
    try:
        return JsonLines(path)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror}",
            file=source.name,
            line=source.line(("records",)),
            key="records",
        ) from error


def _after_fork_in_child() -> None:
    """Keep a forked process from using its parent's run.

    Forked inside a call (multiprocessing, os.fork) it is contained already and stays inert. Forked
    outside any, as a pre-fork server does, it is a run of its own.
    """
    if _active is None:
        return
    scope.set_seating(None)  # the seats are the parent's
    call = scope.current.get()
    if call is None:
        _active.forked()
        return
    if isinstance(call, Call):
        _active.left_to_parent(call)
    set_active(None)


if hasattr(os, "register_at_fork"):  # not on Windows, where importing is all that works
    os.register_at_fork(after_in_child=_after_fork_in_child)
