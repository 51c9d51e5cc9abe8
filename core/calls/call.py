"""One execution of one tool, and what serves it: processes, worker, deadline, record.

What the call is, and how it changes, is in `state`. What serves a call that has processes (its
cgroup, workers, deadline) is in `contained`: a call that starts no process has none of it, and
costs microseconds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from agentcgroup.calls.above import unmet
from agentcgroup.calls.contained import ContainedCall
from agentcgroup.calls.services import Services
from agentcgroup.calls.state import CallState, Identity
from agentcgroup.calls.succession import AgentBackground, Succession
from agentcgroup.cgroup import Cgroup, Events, Usage
from agentcgroup.config.policy import Policy
from agentcgroup.containment.tree import Branch
from agentcgroup.records.record import CallRecord, Outcome

if TYPE_CHECKING:
    from agentcgroup.calls.cancellation import Expiry
    from agentcgroup.isolation.messages import Message
    from agentcgroup.isolation.worker_handle import Worker
    from agentcgroup.monitor.thread_board import ThreadSlot

__all__ = ["Call", "Identity"]

_NO_USAGE: Final = Usage()
_NO_EVENTS: Final = Events()


class Call(CallState):
    """One call; opened by `lifecycle.open_call`, current in its context while its body runs.

    Attributes:
        services: what the session provides for its calls.
        contained: what serves its processes; None while it has none.
        expiry: what cancels the task that awaits its body, None where no task does.
        succession: owns what its threads and tasks start after its end; None while they do not.
        slot: where the monitor finds the thread that works for it; None without a monitor.
        observed: what the monitor saw of its processes, by field of a `CallRecord`.
    """

    __slots__ = (
        *("_block", "_record", "contained", "expiry"),
        *("observed", "services", "slot", "succession"),
    )

    def __init__(
        self,
        services: Services,
        policy: Policy,
        parent: Call | None,
        framework: str,
        agent: str | None,
        tool: str,
        tool_call_id: str | None,
        key: object,
    ) -> None:
        super().__init__(
            next(services.numbers),
            policy,
            parent,
            framework,
            agent,
            tool,
            tool_call_id,
            key,
            limiting=services.limiting,
            running=services.running,
            deadlines=services.deadlines,
        )
        self.services = services
        self.contained: ContainedCall | None = None
        self.succession: Succession | None = None
        self.expiry: Expiry | None = None
        self.slot: ThreadSlot | None = None
        self.observed: Mapping[str, Any] | None = None
        self._record: CallRecord | None = None
        self._block: object = None

    @property
    def id(self) -> str:
        """The id of its record."""
        return f"{self.services.id}-{self.number}"

    @property
    def record(self) -> CallRecord:
        """The record of the ended call.

        Raises:
            RuntimeError: it has not ended.
        """
        if self._record is None:
            if self.outcome is None:
                raise RuntimeError("the call has not ended")
            self._record = self.make_record(self.outcome)
        return self._record

    def contain(self) -> ContainedCall:
        """Return what serves its processes, made at its first process."""
        if self.contained is None:
            with self.services.lock:
                if self.contained is None:
                    self.contained = ContainedCall(self)
        return self.contained

    def abandon(self) -> None:
        """Drop, in a forked child, what belongs to the parent process's call."""
        self.contained = self.slot = None

    def note_slot(self, slot: ThreadSlot | None) -> None:
        """Note where the monitor finds its thread."""
        self.slot = slot

    def note_expiry(self, expiry: Expiry | None) -> None:
        """Note what cancels the task that awaits its body."""
        self.expiry = expiry
        if expiry is not None:
            self.note_awaited()

    def note_block(self, block: object) -> None:
        """Keep what ends it where nobody leaves the block that is its body; None: somebody does."""
        self._block = block

    def note_observed(self, observed: Mapping[str, Any] | None) -> None:
        """Note what the monitor saw of its processes."""
        self.observed = observed

    # -- what others ask of it ------------------------------------------------------------------

    def stop(self, reason: str) -> None:
        """End every process of the call now, and let none start; cancel what awaits its body.

        Without effect once the call has ended. The first reason stands.
        """
        if reason == "timeout" and self._is_given_time():
            return
        if self.request_stop(reason):
            if self.contained is not None:
                self.contained.end_late() if reason == "timeout" else self.contained.group.kill()
            if reason == "timeout" and self.expiry is not None:
                self.expiry.notify()

    def _is_given_time(self) -> bool:
        """Move the deadline where the start of its worker has taken time of the call."""
        contained, timeout = self.contained, self.policy.timeout
        if contained is None or timeout is None or self.deadline is None or self.stopped:
            return False
        deadline = contained.worker_start.deadline(contained.workers, self.started, timeout)
        if deadline <= self.deadline:
            return False
        self.note_deadline(deadline)
        return True

    def note_importing(self, begins: bool) -> None:
        """Note that its worker begins to import the tool's modules, or has imported them."""
        if self.contained is not None:
            self.contained.worker_start.note_importing(begins)

    def warn(self, message: str) -> None:
        """Log a warning, once per session."""
        self.services.warn(message)

    def pids(self) -> list[int]:
        """Return the processes of the call."""
        return [] if self.contained is None else self.contained.group.pids()

    def begin_spawn(self, failed: OSError | None = None) -> int | None:
        """Return the directory fd for the next child; see `scope.SpawnTarget`."""
        if self.ended is not None:
            with self.services.lock:
                if self.succession is None:
                    self.succession = Succession(self)
            return self.succession.begin_spawn(failed)
        fd = self.contain().group.begin_spawn(failed)
        self.services.monitor.placing(True)
        return fd

    def end_spawn(self, pid: int | None) -> None:
        """Take note that a spawn is done; see `scope.SpawnTarget`."""
        if self.succession is not None and self.succession.end_spawn(pid):
            return
        self.services.monitor.placing(False)
        if self.contained is not None:
            self.contained.group.end_spawn(pid)

    def note_child(self, pid: int) -> None:
        """Take note of the pid of a child; see `scope.SpawnTarget`."""
        if self.contained is not None and self.ended is None:
            self.contained.group.note_child(pid)
            if self.stopped is not None:  # without a cgroup that kill could not reach the child
                self.contained.group.kill()

    def background(self) -> AgentBackground:
        """Return the owner of what outlives the call; see `scope.SpawnTarget`."""
        return AgentBackground(self)

    def adopt(self, pid: int) -> Cgroup | None:
        """Bring a process of the call, born outside, into its cgroup; None: the call is over."""
        if self.ended is not None or self.stopped is not None:
            return None
        group = self.contain().group
        group.adopt(pid)
        return group.cgroup

    def branch(self) -> Branch | None:
        """Return the branch for calls inside this one; None where there are no cgroups."""
        return self.contain().group.branch()

    def worker_at_once(self) -> bool:
        """Return whether `worker` waits for nothing: the fork server runs, and there are cgroups.

        To request a worker is one message. Without cgroups its birth has to be waited for.
        """
        services = self.services
        return services.has_workers() and services.cgroups.place.base is not None

    def worker(self) -> Worker:
        """Return a worker process in the call's cgroup, to run the tool's body.

        Raises:
            LimitExceeded: the call is over.
            CgroupUnavailable: no worker can be made.
        """
        return self.contain().worker()

    def restock(self) -> None:
        """Have a worker made for the next call, while this call's worker runs the body."""
        if self.contained is not None:
            self.contained.restock()

    def kill_worker(self) -> None:
        """Kill the worker with all other processes of the call: no code waits for its answer."""
        if self.contained is not None:
            self.contained.group.kill()

    def learn(self, message: Message) -> None:
        """Have the fork server import the modules that the call's worker has reported."""
        self.services.workers().learn(message)

    # -- the record -----------------------------------------------------------------------------

    def make_record(self, outcome: Outcome) -> CallRecord:
        """Make the record as far as it is known by now."""
        contained = self.contained
        usage, counted = (_NO_USAGE, _NO_EVENTS) if contained is None else contained.usage()
        ended = time.monotonic() if self.ended is None else self.ended
        used = self.used if self.isolation == "inline" else None
        return CallRecord(
            id=self.id,
            parent_id=None if self.parent is None else self.parent.id,
            framework=self.framework,
            agent=self.agent,
            tool=self.tool,
            tool_call_id=self.tool_call_id,
            started_at=self.services.epoch + self.started,
            duration_s=ended - self.started,
            outcome=outcome,
            reason=self.reason or self.stopped,
            memory_peak_bytes=usage.memory_peak_bytes,
            cpu_usage_s=usage.cpu_usage_s,
            pids_peak=usage.pids_peak,
            io_read_bytes=usage.io_read_bytes,
            io_write_bytes=usage.io_write_bytes,
            throttled_s=usage.throttled_s,
            oom_kills=counted.oom_kill,
            memory_high_events=counted.memory_high,
            background=None if contained is None else contained.left_in_background,
            worker_start_s=None if contained is None else contained.start_s(),
            **(self.observed or {}),
            limits=dict(self.policy.asked),
            cgroup=None if contained is None else contained.group.path,
            thread_cpu_s=None if used is None else used[0] / 1e6,
            memory_growth_bytes=None if used is None else used[1] * 1024,
            thread_memory_charged_bytes=None if used is None else self.charged,
            isolation=self.isolation,
            used_helpers=self.used_helpers,
            unmet=unmet(self),
        )
