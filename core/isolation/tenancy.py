"""The workers that serve one call: taken into its cgroup, left to the next call, or ended."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from agentcgroup.cgroup import Cgroup, Events, Limits, Meter, Usage
from agentcgroup.containment.call_cgroup import CallCgroup
from agentcgroup.containment.tree import Branch
from agentcgroup.errors import CgroupUnavailable
from agentcgroup.isolation.warm_workers import WarmWorkers
from agentcgroup.isolation.worker_handle import Worker
from agentcgroup.threads import Lock

__all__ = ["Tenancy"]

#: Seconds that the fork of a worker may take.
_FORK_WAIT: Final = 30.0


class Tenancy:
    """The workers in the cgroup of one call.

    Without `reuse` a worker comes with a cgroup of its own, which becomes the call's, or is born in
    the cgroup that the call has already. With `reuse` the worker and its cgroup go to the next call
    of the same tool.
    """

    __slots__ = (
        "_group",
        "_limits",
        "_lock",
        "_outermost",
        "_reuse",
        "_tool",
        "_used",
        "_workers",
        "tenants",
    )

    def __init__(
        self,
        group: CallCgroup,
        workers: WarmWorkers,
        limits: Limits,
        *,
        reuse: int,
        tool: str | None,
        outermost: bool,
    ) -> None:
        """Serve the call that `group` belongs to.

        Args:
            group: the call's cgroup.
            workers: where workers are taken from.
            limits: the call's limits.
            reuse: calls that one worker may serve.
            tool: what the worker is kept for; None where a worker serves one call.
            outermost: the call runs inside no other call. Below another call, workers that wait for
                later calls would count as leftovers of that call's tool.
        """
        self._group = group
        self._workers = workers
        self._limits = limits
        self._reuse = reuse
        self._tool = tool
        self._outermost = outermost
        self._lock = Lock()
        self._used: Usage | None = None
        self.tenants: list[Worker] = []

    def worker(self, refuse_if_over: Callable[[], None]) -> Worker:
        """Return a worker process in the call's cgroup.

        Raises:
            LimitExceeded: `refuse_if_over` raised it.
            CgroupUnavailable: no worker can be made.
        """
        group = self._group
        with group.lock:
            refuse_if_over()
            try:
                worker = self._take()
            except OSError as error:
                raise CgroupUnavailable(f"no worker process can be made: {error}") from error
            self.tenants.append(worker)
        if group.cgroup is None and group.leaf is not None and worker.born.wait(_FORK_WAIT):
            group.leaf.note_child(worker.pid or 0)
        return worker

    def _take(self) -> Worker:
        """Take a worker with its cgroup where the call has none yet, else fork one into it."""
        taken: Worker | None = None

        def with_cgroup(branch: Branch) -> Cgroup:
            nonlocal taken
            taken = self._workers.take(branch, self._limits, self._tool)
            assert taken.cgroup is not None
            if self._tool is not None and taken.meter is None:
                taken.meter = taken.cgroup.meter()
            if taken.read_usage is not None:
                taken.read_usage()
            return taken.cgroup

        leaf = self._group.ensure_leaf(with_cgroup)
        if taken is None:
            taken = self._workers.worker_in(leaf.fd)
        taken.calls += 1
        taken.stays = taken.meter is not None and taken.calls < self._reuse and self._outermost
        return taken

    def idle(self) -> frozenset[int] | None:
        """Return the pids of the workers that have answered; None: there is no worker."""
        if not self.tenants:
            return None
        return frozenset(worker.pid for worker in self.tenants if worker.done and worker.pid)

    def before_kill(self, kill: Callable[[], None]) -> None:
        """Have `kill` called again at the birth of a worker that is not born yet.

        Nothing waits for what the fork server says of a worker: it may be stopped.
        """
        for worker in self.tenants:
            worker.at_birth = kill
            worker.give_up()

    def before(self) -> Events:
        """Return what the kernel had counted in the cgroup before this call."""
        return self.tenants[0].counted if self.tenants else Events()

    def restock(self) -> None:
        """Have a worker made for the next call, while this call's worker runs the body."""
        branch = self._group.agent_branch
        if branch is None or not self._outermost or self._reuse > 1:
            return
        if self._workers.bare(branch, self._limits):
            with contextlib.suppress(OSError):  # the next call tries itself, and reports why not
                self._workers.restock(branch, self._limits, most=1)

    def prepare(self, branch: Branch) -> bool:
        """Have workers ready below `branch` for the next call; return whether that is done here."""
        if not self.tenants or not self._outermost:
            return False
        self._workers.restock(branch, self._limits)
        return True

    def give_back(self, events: Events) -> bool:
        """Leave the worker and its cgroup to the next call of this tool, where that is possible.

        What this call has used is read later, at the latest when the next call takes the worker.
        """
        worker = self.tenants[0] if len(self.tenants) == 1 else None
        branch, group = self._group.agent_branch, self._group.cgroup
        if self._tool is None or worker is None or not worker.stays or worker.meter is None:
            return False
        if branch is None or group is None:
            return False
        read_usage = functools.partial(self._read_usage, worker.meter, group)
        if not self._group.hand_over(read_usage, events):
            return False
        worker.counted = replace(
            worker.counted,
            pids_max=(worker.counted.pids_max or 0) + (events.pids_max or 0),
            memory_high=(worker.counted.memory_high or 0) + (events.memory_high or 0),
        )
        worker.read_usage = read_usage
        self.tenants = []
        self._workers.give_back(worker, branch, self._limits, self._tool)
        return True

    def _read_usage(self, meter: Meter, group: Cgroup) -> Usage:
        """Read, once, what was used up to the moment when the worker was given back."""
        with self._lock:
            if self._used is None:
                self._used = meter.lap(group.usage())
            return self._used

    def leave(self) -> None:
        """Release the workers of a call that is over; the end of its cgroup has ended them."""
        for worker in self.tenants:
            self._workers.leave(worker)

    def forget(self) -> None:
        """Drop the references to the workers: the record of the call outlives them."""
        self.tenants = []
