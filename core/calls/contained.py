"""What serves a call that has processes: its cgroup, its workers, its deadline.

Made at the call's first process. It stands between the call and `containment`, which knows no call:
a `ContainedCall` is the `Owner` of the call's `CallCgroup`.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from agentcgroup.calls.leftover_notice import tell_leftovers
from agentcgroup.calls.refusal import refuse_if_over
from agentcgroup.calls.worker_start import WorkerStart
from agentcgroup.cgroup import Cgroup, Events, Usage
from agentcgroup.containment.background import only_background
from agentcgroup.containment.call_cgroup import CallCgroup
from agentcgroup.containment.process_group import ProcessGroup
from agentcgroup.containment.tree import Branch
from agentcgroup.enforcement.verdict import UNCONTAINED
from agentcgroup.errors import CgroupUnavailable
from agentcgroup.spawn.pools import release
from agentcgroup.threads import Lock

if TYPE_CHECKING:
    from agentcgroup.calls.call import Call
    from agentcgroup.isolation.tenancy import Tenancy
    from agentcgroup.isolation.worker_handle import Worker

__all__ = ["ContainedCall"]

logger = logging.getLogger("agentcgroup")

#: Seconds after the call's end that a thread may take to start a child in its cgroup.
_SPAWN_WAIT: Final = 30.0


class ContainedCall:
    """The processes of one call.

    Attributes:
        group: the cgroup of the call, or its process tree.
        ending: held by the thread that ends the processes and settles the call.
        left_in_background: names of the processes at its deadline, all of which were background.
        worker_start: the time until the tool's code began in its worker.
    """

    __slots__ = (
        *("_call", "_removed", "_tenancy"),
        *("ending", "group", "left_in_background", "worker_start"),
    )

    def __init__(self, call: Call) -> None:
        self._call = call
        self._removed = False
        self._tenancy: Tenancy | None = None
        self.ending = Lock()
        self.worker_start = WorkerStart()
        self.left_in_background: tuple[str, ...] | None = None
        self.group = CallCgroup(self, call.policy.limits)

    # -- `containment.call_cgroup.Owner` ---------------------------------------------------------

    @property
    def stopped(self) -> str | None:
        """The reason for which the call was stopped."""
        return self._call.stopped

    @property
    def outlived(self) -> bool:
        """Whether the call has ended well."""
        return self._call.outlived

    def refuse_if_over(self) -> None:
        """Let no process start in a call that is over, nor in a call inside of one.

        Raises:
            LimitExceeded: a call was stopped, or its deadline has passed.
        """
        for call in (self._call, *self._call.around()):
            refuse_if_over(call)

    def background_fd(self) -> int | None:
        """Return the directory fd of the agent's background cgroup."""
        call = self._call
        return call.services.cgroups.agent_background_fd(call.framework, call.agent)

    def background(self) -> Cgroup | None:
        """Return the agent's background cgroup."""
        call = self._call
        return call.services.cgroups.agent_background(call.framework, call.agent)

    def release_helpers(self) -> set[int]:
        """Have the agent own the pools that the call has made."""
        pids = release(self._call)
        if pids:
            self._call.note_helpers()
        return pids

    def keep_maintenance(self, group: ProcessGroup) -> bool:
        """Take known maintenance out of the group, where the policy does not decide on it."""
        return self._call.services.maintenance.take(self._call, group)

    def note_leftovers(self, pids: Iterable[int]) -> None:
        """Log which rule keeps them."""
        tell_leftovers(self._call, pids)

    def before_cgroup(self) -> None:
        """Find the call around it, and have its memory watched."""
        self._call.reparent()
        self.watch()

    def locate(self) -> tuple[Branch | None, bool]:
        """Return the branch of the call's agent, or of the call around it."""
        call, cgroups = self._call, self._call.services.cgroups
        parent = call.parent
        above = cgroups.branch() if parent is None else parent.branch()
        if above is not None and (parent is None or parent.agent != call.agent):
            return cgroups.agent_branch(above, call.framework, call.agent), True
        return above, False

    def contained(self, cgroup: Cgroup) -> None:
        """Have the monitor watch the cgroup."""
        self._call.services.monitor.note_cgroup(self._call, cgroup, self._call.slot)

    def uncontained(self, error: OSError) -> None:
        """Refuse the call, or report that it runs uncontained, as the configuration says."""
        try:
            self._call.services.cgroups.uncontained(error)
        except CgroupUnavailable:
            self._call.request_stop(f"{UNCONTAINED}{error}")
            raise

    def forget_removed(self) -> None:
        """Forget cgroups above that are gone: of the call around this one, and of the run."""
        above = None if self._call.parent is None else self._call.parent.contained
        if above is not None:
            with above.group.lock:
                above.group.forget_removed()
        self._call.services.cgroups.forget_removed()

    def released(self, cgroup: Cgroup) -> None:
        """Have the monitor let processes leave the cgroup."""
        self._call.services.monitor.release(cgroup)

    def idle_tenants(self) -> frozenset[int] | None:
        """Return the pids of the call's workers that have answered; None: it has no worker."""
        return None if self._tenancy is None else self._tenancy.idle()

    def before_kill(self, kill: Callable[[], None]) -> None:
        """Have a worker killed at its birth when it is not born yet."""
        if self._tenancy is not None:
            self._tenancy.before_kill(kill)

    def calls_follow(self) -> bool:
        """Return whether deferred jobs wait: then calls come one upon the other."""
        return self._call.services.deferred.busy()

    def prepare(self, branch: Branch) -> None:
        """Have a cgroup, or a worker in one, ready for the next call like this one."""
        if not self._call.services.closed:
            with contextlib.suppress(OSError):  # the next call tries itself, and reports why not
                if self._tenancy is None or not self._tenancy.prepare(branch):
                    branch.prepare(self._call.policy.limits)

    # -- its workers ----------------------------------------------------------------------------

    def worker(self) -> Worker:
        """Return a worker process in the cgroup; see `Call.worker`."""
        call = self._call
        workers = call.services.workers()
        if self._tenancy is None:
            call.reparent()  # before it is asked whether the call is the outermost one
            tenancy = _tenancy_class()
            with self.group.lock:
                if self._tenancy is None:
                    self._tenancy = tenancy(
                        self.group,
                        workers,
                        call.policy.limits,
                        reuse=call.policy.reuse,
                        tool=call.kept_for,
                        outermost=call.parent is None,
                    )
        worker = self._tenancy.worker(self.refuse_if_over)
        if call.stopped is not None:
            self.group.kill()  # the worker was taken between that kill and now
        return worker

    def restock(self) -> None:
        """Have a worker made for the next call, while this call's worker runs the body."""
        if self._tenancy is not None:
            self._tenancy.restock()

    def give_back(self, events: Events) -> bool:
        """Leave the worker and its cgroup to the next call of the tool, where that is possible."""
        return self._tenancy is not None and self._tenancy.give_back(events)

    @property
    def workers(self) -> Sequence[Worker]:
        """The worker processes of the call."""
        return () if self._tenancy is None else self._tenancy.tenants

    def start_s(self) -> float | None:
        """Return the seconds until the tool's code began in a worker; None where it has none."""
        call = self._call
        return (
            self.worker_start.seconds(self.workers, call.started)
            if call.isolation == "process"
            else None
        )

    def end_late(self) -> None:
        """End the processes at the deadline; note those that were left when all else was done."""
        self.left_in_background = only_background(
            self.group.pids(),
            started=self.group.started,
            workers=[worker.pid for worker in self.workers if worker.pid is not None],
        )
        self.group.kill()

    # -- enforcement ----------------------------------------------------------------------------

    def watch(self) -> None:
        """Have the call stopped at memory_max where the kernel has none."""
        call, services = self._call, self._call.services
        memory_max = call.policy.limits.memory_max
        if services.sampler is not None and isinstance(memory_max, int):
            services.sampler.watch(call, memory_max)

    def unwatch(self) -> None:
        """Undo `watch`."""
        if (sampler := self._call.services.sampler) is not None:
            sampler.forget(self._call)

    def events(self) -> Events:
        """Return what befell the call's own processes since it has its cgroup."""
        return self._of_this_call(self.group.events())

    def _of_this_call(self, events: Events) -> Events:
        before = None if self._tenancy is None else self._tenancy.before()
        if before is None or not (before.pids_max or before.memory_high):
            return events
        return replace(
            events,
            pids_max=events.pids_max and events.pids_max - (before.pids_max or 0),
            memory_high=events.memory_high and events.memory_high - (before.memory_high or 0),
        )

    def usage(self) -> tuple[Usage, Events]:
        """Return what the processes have used, and what the kernel has counted.

        Where cgroupfs cannot be read, without a free descriptor, the record lacks both.
        """
        try:
            return self.group.usage(), self._of_this_call(self.group.counted())
        except OSError:
            logger.exception("agentcgroup: what call %s has used cannot be read", self._call.id)
            return Usage(), Events()

    def remove(self) -> None:
        """Remove the cgroup, once, and make what the next call will need.

        Where a thread of the call still starts a child there, another deferred job does it later.

        Raises:
            OSError: EBUSY when processes do not die.
        """
        call = self._call
        if self._removed:
            return
        over_for = 0.0 if call.ended is None else time.monotonic() - call.ended
        if self.group.spawning() and over_for < _SPAWN_WAIT:
            call.services.deferred.put(self.remove)
            return
        self._removed = True
        tenancy, branch = self._tenancy, self.group.agent_branch
        try:
            self.group.remove()
        finally:
            if tenancy is not None:
                tenancy.leave()
            if branch is not None:
                self.prepare(branch)
                branch.leave()
            if tenancy is not None:
                tenancy.forget()


@functools.cache  # the import statement takes 3 us each time, and ten times that after a pause
def _tenancy_class() -> type[Tenancy]:
    from agentcgroup.isolation.tenancy import Tenancy  # an app that isolates nothing has no need

    return Tenancy
