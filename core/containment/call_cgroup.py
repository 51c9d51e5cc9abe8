"""The cgroup of one call and the processes in it: made at the first child, gone after the last.

A call may hold further calls (a tool that runs an agent). Then its cgroup becomes a branch, and its
own processes move to a leaf in it, ``self``: a cgroup with controllers on for its children cannot
hold processes (cgroup-v2.rst). Where no cgroup can be had, the processes are followed by parentage.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from agentcgroup.cgroup import Cgroup, Events, Meter, Usage
from agentcgroup.containment.process_tree import ProcessTree
from agentcgroup.containment.tree import Branch, discard
from agentcgroup.errors import CgroupUnavailable

if TYPE_CHECKING:
    from agentcgroup.calls.call import Call
    from agentcgroup.isolation.launcher import Worker
    from agentcgroup.isolation.warm_workers import WarmWorkers

__all__ = ["CallCgroup"]

logger = logging.getLogger("agentcgroup")

#: Seconds to wait, in the tool's own thread, for killed processes to be gone.
_KILL_WAIT: Final = 2.0
#: Seconds a spawn begun by another thread of the call may take until its cgroup is removed.
_SPAWN_WAIT: Final = 30.0
#: Children of a call of which the monitor is told that they were its own, the last ones.
_STARTED: Final = 1024


class CallCgroup:
    """Holds the processes of one call."""

    __slots__ = (
        "_branch",
        "_call",
        "_fresh",
        "_guests",
        "_home",
        "_leaf",
        "_left",
        "_lock",
        "_spawning",
        "_used",
        "cgroup",
        "path",
        "started",
    )

    def __init__(self, call: Call) -> None:
        self._call = call
        self._lock = threading.Lock()
        self._spawning = 0
        self._fresh = True  # nothing was started yet
        self._home: Branch | None = None  # the agent's branch that the cgroup came from
        self.started: deque[int] = deque(maxlen=_STARTED)  # pids of its children, for the monitor
        self.cgroup: Cgroup | None = None
        self._leaf: Cgroup | ProcessTree | None = None  # where the children live
        self._branch: Branch | None = None
        self._guests: list[Worker] = []  # processes that run the tool's own body
        self.path: str | None = None  # of its cgroup, also when that is gone or another's
        # Once the cgroup was given back: how to read what was used, and what had happened.
        self._left: tuple[Callable[[], Usage], Events] | None = None
        self._used: Usage | None = None

    # -- births -------------------------------------------------------------------------------

    def begin_spawn(self, failed: OSError | None) -> int | None:
        """Return the directory fd for the next child; see `scope.SpawnTarget`."""
        call = self._call
        with self._lock:
            if call.ended is not None and call.stopped is None:
                # A thread that outlived its call starts a process: it lives with the run.
                self._spawning += 1
                return call.session.background_fd()
            call.refuse_if_over()
            if failed is not None and self._branch is None:
                # Somebody else removed our cgroup: what was in it is gone, the call goes on.
                logger.warning("agentcgroup: the cgroup of a call is gone: %s", failed)
                self.cgroup = self._leaf = None
            if self._leaf is None:
                self._leaf = self._make_leaf()
            self._spawning += 1
            return self._leaf.fd

    def end_spawn(self, pid: int | None) -> None:
        """Say that a spawn is done; see `scope.SpawnTarget`."""
        with self._lock:
            self._spawning -= 1
            first, self._fresh = self._fresh, False
        if pid is not None:
            self.started.append(pid)
            if isinstance(self._leaf, ProcessTree):
                self._leaf.add(pid)
        if first and self._home is not None and self._call.session.janitor.busy():
            # Calls come one upon the other: the janitor has no time to see to the next one.
            self._prepare(self._home)
        if self._call.stopped is not None:
            self.kill()  # born between that kill and now

    def adopt(self, pid: int) -> None:
        """Bring in a process of the call that was born outside.

        Raises:
            LimitExceeded: the call is over.
            OSError: it cannot be moved.
        """
        self.begin_spawn(None)
        try:
            if isinstance(self._leaf, Cgroup):
                with contextlib.suppress(ProcessLookupError):
                    self._leaf.join(pid)
        finally:
            self.end_spawn(None)  # none of those that were placed

    def worker(self) -> Worker:
        """Return a worker process in here; see `Call.worker`."""
        call = self._call
        pool = call.session.workers()
        with self._lock:
            call.refuse_if_over()
            try:
                worker = self._take_worker(pool)
            except OSError as error:
                raise CgroupUnavailable(f"no worker process can be made: {error}") from error
            self._guests.append(worker)
        if isinstance(self._leaf, ProcessTree) and worker.born.wait(_SPAWN_WAIT):
            self._leaf.add(worker.pid or 0)
        if call.stopped is not None:
            self.kill()  # taken between that kill and now
        return worker

    def _take_worker(self, pool: WarmWorkers) -> Worker:
        """Take one with its cgroup where the call has none yet, else have one born in it."""
        taken: Worker | None = None
        reuse = self._call.policy.reuse
        tool = self._call.kept_for

        def with_cgroup(above: Branch) -> Cgroup:
            nonlocal taken
            taken = pool.take(above, self._call.policy.limits, tool)
            assert taken.cgroup is not None
            if tool is not None and taken.meter is None:
                taken.meter = taken.cgroup.meter()
            if taken.settle is not None:
                taken.settle()
            return taken.cgroup

        if self._leaf is None:
            self._leaf = self._make_leaf(with_cgroup)
        if taken is None:
            taken = pool.visitor(self._leaf.fd)
        taken.calls += 1
        taken.stays = taken.meter is not None and taken.calls < reuse and self._standing
        return taken

    def restock(self) -> None:
        """See that the next call finds a worker, while this one's is at work and we wait."""
        call = self._call
        if self._home is None or not self._standing or call.policy.reuse > 1:
            return
        pool, limits = call.session.workers(), call.policy.limits
        if pool.bare(self._home, limits):
            with contextlib.suppress(OSError):  # the next call tries for itself, and says why not
                pool.restock(self._home, limits, most=1)

    @property
    def _standing(self) -> bool:
        """Whether workers may stand ready beside this call.

        Below another call they would be taken for what its tool has left running.
        """
        return self._call.parent is None

    def branch(self) -> Branch | None:
        """Return the branch for calls inside this one; None where there are no cgroups."""
        with self._lock:
            if self._branch is None:
                if self.cgroup is None:
                    self._take_cgroup()
                    if self.cgroup is None:
                        return None
                if self._leaf is self.cgroup:
                    self._leaf = self.cgroup.child("self")
                    _move(self.cgroup, self._leaf)
                self._branch = Branch(self.cgroup, self._call.session.roots)
            return self._branch

    def _make_leaf(self, take: Callable[[Branch], Cgroup] | None = None) -> Cgroup | ProcessTree:
        if self._branch is not None:
            return self._branch.cgroup.child("self")
        self._take_cgroup(take)
        return self.cgroup if self.cgroup is not None else ProcessTree()

    def _take_cgroup(self, take: Callable[[Branch], Cgroup] | None = None) -> None:
        """Take a cgroup below the agent, or below the call this one runs in; start the clock.

        `take` has another way to one than a spare of the branch.
        """
        call = self._call
        session = call.session
        while call.parent is not None and call.parent.ended is not None:
            call.parent = call.parent.parent  # started by a task that outlived its call
        call.arm()  # before the first child: one that hangs before its exec holds us up
        try:
            above = session.branch() if call.parent is None else call.parent.branch()
            if above is None:
                return
            if call.parent is None or call.parent.agent != call.agent:
                self._home = above = session.agent_branch(above, call.framework, call.agent)
            self.cgroup = take(above) if take is not None else above.take(call.policy.limits)
            self.path = self.cgroup.path
            session.monitor.note_cgroup(call, self.cgroup, call.sitting)
        except OSError as error:
            session.uncontained(error)

    # -- deaths ---------------------------------------------------------------------------------

    def kill(self) -> None:
        """SIGKILL every process in it."""
        with self._lock:  # not while it is given back: the next call's processes are not ours
            held = self._held
            if held is None:
                return
            for guest in self._guests:  # before the kill: one that is not born yet would miss it
                guest.at_birth = held.kill
            held.kill()

    def populated(self) -> bool:
        """Say whether any process lives in it, but for workers that have done their work."""
        held = self._held
        return held is not None and not self._only_guests(held)

    def end(self, *, over: bool, keep: bool, linger: float) -> bool:
        """Bring its processes to an end.

        Args:
            over: the call was stopped or cancelled; there is nothing to wait for.
            keep: processes that are still running may go on, under the agent's cgroup.
            linger: seconds they may take to be gone by themselves.

        Returns:
            Whether processes had outlived the tool and were killed.
        """
        with self._lock:  # a spawn that another thread has begun gets its cgroup first
            held = self._held
        if held is None:
            return False
        if not over:
            if self._only_guests(held) or held.wait_empty(linger):
                return False
            if keep and self._keep():
                return False
        held.kill()
        if not held.wait_empty(_KILL_WAIT):
            logger.warning("agentcgroup: killed processes of a call are still there: %s", held)
        return not over

    def give_back(self, events: Events) -> bool:
        """Leave the worker and its cgroup to the next call of this tool, where that may be.

        The processes in it are no longer this call's, which met `events`. What it has used is read
        behind it, or at the latest when the next one takes the worker.
        """
        call, tool = self._call, self._call.kept_for
        guest = self._guests[0] if self._guests else None
        if tool is None or guest is None or not guest.stays or guest.meter is None:
            return False
        home = self._home
        with self._lock:
            held = self.cgroup
            single = len(self._guests) == 1 and self._branch is None and call.stopped is None
            if held is None or home is None or not single or not self._only_guests(held):
                return False
            guest.pids_max += events.pids_max or 0
            guest.settle = functools.partial(self._settle, guest.meter, held)
            self._left = guest.settle, events
            self.cgroup = self._leaf = None
            self._guests = []
        call.session.workers().give_back(guest, home, call.policy.limits, tool)
        return True

    def _settle(self, meter: Meter, held: Cgroup) -> Usage:
        """Read, once, what was used up to the moment when the worker was given back."""
        with self._lock:
            if self._used is None:
                self._used = meter.lap(held.usage())
            return self._used

    def _only_guests(self, held: Cgroup | ProcessTree) -> bool:
        """Say whether nothing lives here but workers that have done their work."""
        if not self._guests:
            return not held.populated()
        resting = {guest.pid for guest in self._guests if guest.done}
        if self._branch is not None or len(resting) < len(self._guests):
            return False
        return resting.issuperset(held.procs())

    def remove(self) -> None:
        """Remove the cgroup; whatever is in it dies."""
        deadline = time.monotonic() + _SPAWN_WAIT
        while self._spawning and time.monotonic() < deadline:
            time.sleep(0.001)
        try:
            if self._branch is not None:
                if isinstance(self._leaf, Cgroup):
                    discard(self._leaf)
                self._branch.remove()
            elif self.cgroup is not None:
                discard(self.cgroup)
        finally:
            self._let_go()

    def _let_go(self) -> None:
        """Give up the rest that was held, whether or not the cgroup could be removed."""
        for guest in self._guests:
            self._call.session.workers().leave(guest)
        if self._home is not None:
            self._prepare(self._home)
            self._home.leave()
        self._guests = []  # the record of the call outlives them

    def _prepare(self, home: Branch) -> None:
        """Have a cgroup ready for the next call like this one."""
        session = self._call.session
        if not session.closed:
            limits = self._call.policy.limits
            with contextlib.suppress(OSError):  # the next call tries for itself, and says why not
                if self._guests and self._standing:
                    session.workers().restock(home, limits)
                else:
                    home.prepare(limits)

    def _keep(self) -> bool:
        if self._home is None or not isinstance(self._leaf, Cgroup):
            return False
        if self.cgroup is not None:
            self._call.session.monitor.release(self.cgroup)
        _move(self._leaf, self._home.background())
        return True

    # -- what the kernel counted ----------------------------------------------------------------

    def pids(self) -> list[int]:
        """Return the processes of the call itself."""
        leaf = self._leaf
        return [] if leaf is None else leaf.procs()

    def usage(self) -> Usage:
        """Return what its processes have used, those of calls inside it too."""
        if self._left is not None:
            return self._left[0]()
        held = self._held
        return held.usage() if held is not None else Usage()

    def oom_kills(self) -> int | None:
        """Return how many processes the OOM killer has counted; None where it does not count."""
        if self._left is not None:
            return self._left[1].oom_kill
        return None if self.cgroup is None else self.cgroup.events().oom_kill

    def events(self) -> Events:
        """Return what hit this call's own processes, not those of the calls inside it."""
        held = self._held
        if held is None:
            return Events()
        events = held.events()
        if events.pids_max and self._guests and self._guests[0].pids_max:
            events = replace(events, pids_max=events.pids_max - self._guests[0].pids_max)
        if self._branch is None or not events.oom_kill or events.oom_local:
            return events
        return Events() if self._leaf is None else self._leaf.events()

    def events_above(self) -> Iterator[tuple[str, Events]]:
        """Yield the events of each cgroup above, nearest first, by the limit they belong to."""
        call: Call | None = self._call
        enclosure: CallCgroup | None = self
        while call is not None:
            if enclosure is not None:
                if enclosure is not self and enclosure.cgroup is not None:
                    yield "parent.memory_max", enclosure.cgroup.events()
                if enclosure._home is not None:
                    yield "agent.memory_max", enclosure._home.cgroup.events()
            call = call.parent
            enclosure = call.enclosure if call is not None else None
        run = self._call.session.branch()
        if run is not None:
            yield "run.memory_max", run.cgroup.events()

    @property
    def _held(self) -> Cgroup | ProcessTree | None:
        return self.cgroup if self.cgroup is not None else self._leaf


def _move(source: Cgroup, target: Cgroup) -> None:
    """Move every process right in `source`, those it forks meanwhile too."""
    for _ in range(100):
        pids = source.procs()
        if not pids:
            return
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                target.join(pid)
