"""One execution of one tool: what it is, and the states it goes through.

::

    opened ──begin──▶ running ──end──▶ ended ──settle──▶ settled
       │                 │               ▲
       └──request_stop───┴─▶ stopping ───┘

The functions of this module are the only ones that change a call; each is one transition, or one
note. A transition that is not allowed raises RuntimeError. `lifecycle` decides when they run.
What serves a call that has processes (its cgroup, workers, deadline) is in `contained`: a call that
starts no process has none of it, and costs microseconds.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

from agentcgroup.calls.contained import ContainedCall
from agentcgroup.calls.services import Services
from agentcgroup.cgroup import Cgroup, Usage
from agentcgroup.config.policy import Policy
from agentcgroup.containment.tree import Branch
from agentcgroup.errors import Unshippable
from agentcgroup.records.record import CallRecord, Isolated, Outcome

if TYPE_CHECKING:
    from agentcgroup.calls.cancellation import Expiry
    from agentcgroup.calls.inline_usage import Used
    from agentcgroup.isolation.channel import Message
    from agentcgroup.isolation.launcher import Worker
    from agentcgroup.monitor.thread_board import ThreadSlot

__all__ = ["Call", "Identity", "State"]

#: Agent, tool and tool_call_id of a call, as the framework and the model gave them. No class of
#: its own: to make one of that takes 0.1 % of a call by LangChain.
Identity = tuple[str | None, str, str | None]

State = Literal["opened", "running", "stopping", "ended", "settled"]

_NO_USAGE: Final = Usage()


class Call:
    """One call; opened by `lifecycle.open_call`, current in its context while its body runs.

    Attributes:
        services: what the session provides for its calls.
        number: counted from 1 in each session.
        policy: the limits and choices that the configuration resolves for it.
        parent: the call it runs inside, None at the top.
        framework, agent, tool, tool_call_id: as in its `CallRecord`.
        key: the tool object while the call runs; an adapter recognises a re-entry by it.
        started, ended: by `time.monotonic`, seconds; `ended` is None until then.
        deadline: when its time is over, by the same clock; None without a timeout.
        stopped: the first reason for which it was stopped, None while it was not.
        outcome, reason: how it ended; `outcome` is None until it is judged.
        used: what its sync body used inline, None where nothing measured it.
        charged: bytes of memory that the kernel charged to threads that worked for it.
        isolation: where the tool's body runs: ``process`` once a worker was asked to run it.
        died: how that worker ended before the body did, None while it did not.
        unshippable: what could not be sent to a worker or back.
        refused: for that reason the call is an error, and did not run inline instead.
        contained: what serves its processes; None while it has none.
        expiry: what cancels the task that awaits its body, None where no task does.
        slot: where the monitor finds the thread that works for it.
    """

    __slots__ = (
        "_record",
        "_running",
        "_settled",
        "agent",
        "charged",
        "contained",
        "deadline",
        "died",
        "ended",
        "expiry",
        "framework",
        "isolation",
        "key",
        "number",
        "observed",
        "outcome",
        "parent",
        "policy",
        "reason",
        "refused",
        "services",
        "slot",
        "started",
        "stopped",
        "tool",
        "tool_call_id",
        "unshippable",
        "used",
    )

    def __init__(
        self,
        services: Services,
        number: int,
        policy: Policy,
        parent: Call | None,
        framework: str,
        agent: str | None,
        tool: str,
        tool_call_id: str | None,
        key: object,
    ) -> None:
        self.services = services
        self.number = number
        self.policy = policy
        self.parent = parent
        self.framework = framework
        self.agent = agent
        self.tool = tool
        self.tool_call_id = tool_call_id
        self.key = key
        self.started = time.monotonic()
        timeout = policy.timeout
        self.deadline = None if timeout is None or not services.limiting else self.started + timeout
        self.ended: float | None = None
        self.stopped: str | None = None
        self.outcome: Outcome | None = None
        self.reason: str | None = None
        self.used: Used | None = None
        self.charged: int | None = None
        self.isolation: Isolated = "inline"
        self.died: str | None = None
        self.unshippable: Unshippable | None = None
        self.refused = False
        self.contained: ContainedCall | None = None
        self.expiry: Expiry | None = None
        self.slot: ThreadSlot | None = None
        self.observed: Mapping[str, Any] | None = None  # what the monitor saw, by field of a record
        self._running = False
        self._settled = False
        self._record: CallRecord | None = None

    # -- what it is -----------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The id of its record."""
        return f"{self.services.id}-{self.number}"

    @property
    def state(self) -> State:
        """The state it is in."""
        if self._settled:
            return "settled"
        if self.ended is not None:
            return "ended"
        if self.stopped is not None:
            return "stopping"
        return "running" if self._running else "opened"

    @property
    def limited(self) -> bool:
        """Whether a limit took the place of the tool's own end."""
        return self.outcome in ("oom", "timeout", "killed") or self.reason == "pids_max"

    @property
    def told(self) -> bool:
        """Whether its end is worth a sentence to the model."""
        return self.limited or self.refused or self.reason == "leftovers"

    @property
    def outlived(self) -> bool:
        """Whether it has ended well; what a thread of its tool starts now belongs to the run."""
        return self.ended is not None and self.stopped is None

    @property
    def kept_for(self) -> str | None:
        """The key of the later calls that its worker may serve; None where it serves one call."""
        return f"{self.framework}:{self.tool}" if self.policy.reuse > 1 else None

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

    def around(self) -> Iterator[Call]:
        """Yield the calls that this one runs inside, nearest first.

        Of those that ended before it only the stopped ones: nothing inside outlives a stopped call.
        """
        above = self.parent
        while above is not None:
            if above.ended is None or above.stopped is not None:
                yield above
            above = above.parent

    # -- transitions ----------------------------------------------------------------------------

    def begin(self) -> None:
        """Make it running: its body is about to run."""
        if self._running or self.ended is not None:
            raise RuntimeError(f"call {self.id} is {self.state} and cannot begin")
        self._running = True

    def request_stop(self, reason: str) -> bool:
        """Make it stopping; return False when it has ended. The first reason stands."""
        if self.ended is not None:
            return False
        self.stopped = self.stopped or reason
        return True

    def end(self, used: Used | None = None, *, cancelled: bool = False) -> None:
        """Make it ended: its body has returned or raised."""
        if self.ended is not None:
            raise RuntimeError(f"call {self.id} is {self.state} and cannot end")
        self.ended = time.monotonic()
        self.key = None
        if used is not None:
            self.used = used
        if cancelled and self.stopped is None:
            self.stopped = "cancelled"  # whichever thread still works for it

    def judge(self, outcome: Outcome, reason: str | None) -> None:
        """Set how it ended."""
        if self.ended is None or self.outcome is not None:
            raise RuntimeError(f"call {self.id} is {self.state} and cannot be judged")
        self.outcome, self.reason = outcome, reason

    def settle(self) -> None:
        """Make it settled: its usage is read and its record handed over."""
        if self.outcome is None or self._settled:
            raise RuntimeError(f"call {self.id} is {self.state} and cannot be settled")
        self._settled = True

    def contain(self) -> ContainedCall:
        """Return what serves its processes, made at its first process."""
        if self.contained is None:
            with self.services.lock:
                if self.contained is None:
                    self.contained = ContainedCall(self)
        return self.contained

    def reparent(self) -> None:
        """Leave a parent that has ended: a task that outlived that call started this one."""
        while self.parent is not None and self.parent.ended is not None:
            self.parent = self.parent.parent

    def abandon(self) -> None:
        """Drop, in a forked child, what belongs to the parent process's call."""
        self.contained = self.slot = None

    # -- notes ----------------------------------------------------------------------------------

    def note_slot(self, slot: ThreadSlot | None) -> None:
        """Note where the monitor finds its thread."""
        self.slot = slot

    def note_expiry(self, expiry: Expiry | None) -> None:
        """Note what cancels the task that awaits its body."""
        self.expiry = expiry

    def note_inline_usage(self, used: Used) -> None:
        """Note what its sync body used inline, measured by the thread that ran it."""
        self.used = used

    def note_charged(self, charged: int) -> None:
        """Add bytes of memory that the kernel charged to a thread that worked for it."""
        self.charged = charged + (self.charged or 0)

    def note_observed(self, observed: Mapping[str, Any] | None) -> None:
        """Note what the monitor saw of its processes."""
        self.observed = observed

    def note_isolated(self, isolation: Isolated) -> None:
        """Note where its body runs."""
        self.isolation = isolation

    def note_worker_died(self, how: str) -> None:
        """Note how its worker ended before the body did, unless the call was stopped."""
        if self.stopped is None:
            self.died = how

    def note_unshippable(self, unshippable: Unshippable, *, refused: bool) -> None:
        """Note what could not be sent, and whether the call is refused for it."""
        self.unshippable = unshippable
        self.refused = self.refused or refused

    # -- what others ask of it ------------------------------------------------------------------

    def stop(self, reason: str) -> None:
        """End every process of the call now, and let none start; cancel what awaits its body.

        Without effect once the call has ended. The first reason stands.
        """
        if self.request_stop(reason):
            if self.contained is not None:
                self.contained.group.kill()
            if reason == "timeout" and self.expiry is not None:
                self.expiry.notify()

    def warn(self, message: str) -> None:
        """Log a warning, once per session."""
        self.services.warn(message)

    def pids(self) -> list[int]:
        """Return the processes of the call."""
        return [] if self.contained is None else self.contained.group.pids()

    def begin_spawn(self, failed: OSError | None = None) -> int | None:
        """Return the directory fd for the next child; see `scope.SpawnTarget`."""
        fd = self.contain().group.begin_spawn(failed)
        self.services.monitor.placing(True)
        return fd

    def end_spawn(self, pid: int | None) -> None:
        """Take note that a spawn is done; see `scope.SpawnTarget`."""
        self.services.monitor.placing(False)
        if self.contained is not None:
            self.contained.group.end_spawn(pid)

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
        usage = _NO_USAGE if contained is None else contained.group.usage()
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
            oom_kills=None if contained is None else contained.group.oom_kills(),
            **(self.observed or {}),
            limits=dict(self.policy.asked),
            cgroup=None if contained is None else contained.group.path,
            thread_cpu_s=None if used is None else used[0] / 1e6,
            memory_growth_bytes=None if used is None else used[1] * 1024,
            thread_memory_charged_bytes=None if used is None else self.charged,
            isolation=self.isolation,
        )
