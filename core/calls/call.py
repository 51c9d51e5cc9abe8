"""One execution of one tool: its identity, its policy, its end.

A call that starts no process has no cgroup and costs microseconds. At its first child it gets an
`CallCgroup`, and from then on a deadline that can be kept. It ends once, by `finish`, which reads
what the kernel counted and says how it ended. A call that met no limit is settled behind its back:
usage read, record handed out, cgroup removed; one that did is settled at once, because the answer
to the model carries the figures.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from agentcgroup.calls import feedback
from agentcgroup.calls.inline_usage import Used
from agentcgroup.cgroup import Cgroup, Usage
from agentcgroup.config.policy import Policy
from agentcgroup.containment.call_cgroup import CallCgroup
from agentcgroup.containment.tree import Branch
from agentcgroup.enforcement.deadlines import verdict
from agentcgroup.errors import LimitExceeded, Unshippable
from agentcgroup.monitor.client import HURRY, PATIENCE
from agentcgroup.monitor.thread_board import ThreadSlot
from agentcgroup.records.record import CallRecord, Isolated, Outcome

if TYPE_CHECKING:
    from agentcgroup.calls.session import Session
    from agentcgroup.isolation.launcher import Worker

__all__ = ["LINGER", "Call", "Identity"]

#: Agent, tool and tool_call_id of a call, as the framework and the model gave them. No class of
#: its own: to make one of that takes 0.1 % of a call by LangChain.
Identity = tuple[str | None, str, str | None]

#: Seconds that processes of a tool that has ended may take to be gone before they are left over:
#: a pipeline's last member or a server told to stop is on its way out.
LINGER: Final = 0.05

_NO_USAGE: Final = Usage()
#: What a call that we stop is, by the reason.
_OUTCOMES: Final[dict[str, Outcome]] = {"timeout": "timeout", "memory_max": "oom"}


class Call:
    """One call; made by `Session.start`, current in its context while the tool's body runs.

    Attributes:
        framework, agent, tool, tool_call_id: as in its `CallRecord`.
        policy: what holds for it.
        parent: the call it runs inside, None at the top.
        stopped: why it was stopped, None while it was not.
        outcome, reason: how it ended; outcome is None until then.
        used: what its sync body used inline, None where nobody could tell.
        charged: bytes of memory that threads working for it were charged, None as `used`.
        isolation: where the tool's body runs, "process" once a worker has been asked to.
        died: how that worker ended before the body did, None while it did not.
        unshippable: what kept the body, or its result, from its way to a worker or back.
        refused: for that reason the call is an error, and did not run inline instead.
    """

    __slots__ = (
        "_record",
        "_seen",
        "agent",
        "charged",
        "died",
        "enclosure",
        "ended",
        "framework",
        "isolation",
        "key",
        "number",
        "outcome",
        "parent",
        "policy",
        "reason",
        "refused",
        "session",
        "sitting",
        "started",
        "stopped",
        "tool",
        "tool_call_id",
        "unshippable",
        "used",
    )

    def __init__(
        self,
        session: Session,
        number: int,
        policy: Policy,
        parent: Call | None,
        framework: str,
        agent: str | None,
        tool: str,
        tool_call_id: str | None,
        key: object,
    ) -> None:
        self.session = session
        self.number = number
        self.policy = policy
        self.parent = parent
        self.framework = framework
        self.agent = agent
        self.tool = tool
        self.tool_call_id = tool_call_id
        self.key = key
        self.started = time.monotonic()
        self.ended: float | None = None
        self.stopped: str | None = None
        self.outcome: Outcome | None = None
        self.reason: str | None = None
        self.enclosure: CallCgroup | None = None
        self.used: Used | None = None
        self.charged: int | None = None
        self.isolation: Isolated = "inline"
        self.died: str | None = None
        self.unshippable: Unshippable | None = None
        self.refused = False
        self._record: CallRecord | None = None
        self._seen: Mapping[str, Any] | None = None
        self.sitting: ThreadSlot | None = None  # where the monitor sees it

    @property
    def id(self) -> str:
        """The call's id in its record."""
        return f"{self.session.id}-{self.number}"

    @property
    def kept_for(self) -> str | None:
        """For what later calls its worker is kept; None where a worker serves one."""
        return f"{self.framework}:{self.tool}" if self.policy.reuse > 1 else None

    # -- while it runs ------------------------------------------------------------------------

    def begin_spawn(self, failed: OSError | None = None) -> int | None:
        """Return the directory fd for the next child; see `scope.SpawnTarget`."""
        fd = self._enclosed().begin_spawn(failed)
        self.session.monitor.placing(True)
        return fd

    def end_spawn(self, pid: int | None) -> None:
        """Say that a spawn is done; see `scope.SpawnTarget`."""
        self.session.monitor.placing(False)
        if self.enclosure is not None:
            self.enclosure.end_spawn(pid)

    def adopt(self, pid: int) -> Cgroup | None:
        """Bring a process of the call, born outside, into its cgroup; None when it is over."""
        if self.ended is not None or self.stopped is not None:
            return None
        enclosure = self._enclosed()
        enclosure.adopt(pid)
        return enclosure.cgroup

    def note_charged(self, charged: int) -> None:
        """Add bytes of memory that were charged to a thread while it worked for the call."""
        self.charged = charged + (self.charged or 0)

    def worker(self) -> Worker:
        """Return a worker process in the call's cgroup, to run the tool's body; see `isolation`.

        Raises:
            LimitExceeded: the call is over.
            CgroupUnavailable: there is none to be had.
        """
        return self._enclosed().worker()

    def branch(self) -> Branch | None:
        """Return the branch for calls inside this one; None where there are no cgroups."""
        return self._enclosed().branch()

    def stop(self, reason: str) -> None:
        """End every process of the call now; none can start in it any more.

        The first reason stands: a child that was refused may have given one, and has ended nobody.
        """
        if self.ended is None:
            self.stopped = self.stopped or reason
            if self.enclosure is not None:
                self.enclosure.kill()

    def arm(self) -> None:
        """Have the call stopped when its time is over, or its memory where only we see to it."""
        timeout = self.policy.timeout
        if timeout is not None and self.session.limiting:
            self.session.watcher.arm(self, self.started + timeout)
        memory_max = self.policy.limits.memory_max
        if self.session.sampler is not None and isinstance(memory_max, int):
            self.session.sampler.watch(self, memory_max)

    def _disarm(self) -> None:
        if self.policy.timeout is not None:
            self.session.watcher.disarm(self)
        if self.session.sampler is not None:
            self.session.sampler.forget(self)

    def pids(self) -> list[int]:
        """Return the processes of the call."""
        return [] if self.enclosure is None else self.enclosure.pids()

    def refuse_if_over(self) -> None:
        """Let no process start in a call that is over, nor in one inside of it.

        Raises:
            LimitExceeded: it was stopped, or its time is over.
        """
        for call in (self, *self._around()):
            call._refuse_if_over()

    def _refuse_if_over(self) -> None:
        timeout = self.policy.timeout
        overdue = timeout is not None and time.monotonic() > self.started + timeout
        if overdue and self.session.limiting and self.stopped is None:
            self.stopped = "timeout"
        if self.stopped is not None:
            # Once it has ended its cgroup can be gone, and the record is made.
            now = _OUTCOMES.get(self.stopped, "killed")
            record = self._make_record(now) if self.outcome is None else self.record
            told = feedback.sentence(record) or f"the call was stopped: {self.stopped}"
            raise LimitExceeded(told, record=record)

    def _around(self) -> Iterator[Call]:
        """Yield the calls that this one runs inside, nearest first.

        Of those it has outlived only the stopped ones, which nothing inside may outlive.
        """
        above = self.parent
        while above is not None:
            if above.ended is None or above.stopped is not None:
                yield above
            above = above.parent

    def _enclosed(self) -> CallCgroup:
        if self.enclosure is None:
            with self.session.lock:
                if self.enclosure is None:
                    self.enclosure = CallCgroup(self)
        return self.enclosure

    # -- how it ends --------------------------------------------------------------------------

    def finish(self, error: BaseException | None = None, *, cancelled: bool = False) -> bool:
        """End the call; True when there is something to tell the model, then `record` has it."""
        if self.sitting is not None:
            self.session.monitor.vacate(self, self.sitting)
        self.ended = time.monotonic()
        self.key = None
        if cancelled and self.stopped is None:
            self.stopped = "cancelled"  # whatever thread goes on with it
        if self.enclosure is None and self.stopped is None:
            self.outcome = "ok" if error is None else "error"
            if self.unshippable is not None:
                self._blame(self.unshippable)
            self.session.settled(self)
            return self.refused
        told = self._judge(error, cancelled)
        if self.enclosure is None:
            self.session.settled(self)
        elif told:
            self._settle(HURRY)
            self.session.janitor.put(self.enclosure.remove)
        else:
            self.session.janitor.put(self._settle_and_remove, self.ended - self.started)
        return told

    def _judge(self, error: BaseException | None, cancelled: bool) -> bool:
        """Say how it ended; True when that is to be told."""
        if self.stopped is None and any(call.stopped is not None for call in self._around()):
            self.stopped = "cancelled"  # whose processes were killed with theirs
        leftovers = False
        enclosure = self.enclosure
        if enclosure is not None:
            leftovers = enclosure.end(
                over=cancelled or self.stopped is not None,
                keep=error is None and self.policy.background == "keep",
                linger=LINGER,
            )
        events = None if enclosure is None else enclosure.events()
        self.outcome, self.reason = verdict(
            stopped=self.stopped,
            error=error,
            cancelled=cancelled,
            events=events,
            above=enclosure.events_above() if enclosure is not None else (),
            leftovers=leftovers,
            died=self.died,
        )
        if self.unshippable is not None:
            self._blame(self.unshippable)
        told = self.told
        if enclosure is not None and events is not None and not told:
            enclosure.give_back(events)
        return told

    def _blame(self, unshippable: Unshippable) -> None:
        """Have the record say what could not be sent, and who had asked for a worker."""
        if self.reason is None:
            asked = self.policy.isolation_source
            self.reason = f"unshippable: {unshippable.what} ({unshippable.kind}); by {asked}"
        if self.refused and self.outcome == "error" and not unshippable.ran:
            self.outcome = "rejected"

    @property
    def told(self) -> bool:
        """Whether the way it ended is worth a sentence to the model."""
        return self.limited or self.refused or self.reason == "leftovers"

    @property
    def limited(self) -> bool:
        """Whether a limit took the place of the tool's own end."""
        return self.outcome in ("oom", "timeout", "killed") or self.reason == "pids_max"

    @property
    def record(self) -> CallRecord:
        """The record of the finished call."""
        if self._record is None:
            if self.outcome is None:
                raise RuntimeError("the call has not ended")
            self._record = self._make_record(self.outcome)
        return self._record

    def _settle(self, patience: float) -> None:
        """Read what the call used, while its cgroup is there, and hand out the record.

        Waits up to `patience` seconds for the monitor to have caught up.
        """
        self._disarm()
        enclosure = self.enclosure
        if enclosure is not None and enclosure.cgroup is not None:
            monitor = self.session.monitor
            seen = monitor.seen(enclosure.cgroup, tuple(enclosure.started), patience)
            # Of a cgroup that has served several calls it is known of all of them together.
            self._seen = seen if self.kept_for is None else None
        _ = self.record
        self.session.settled(self)

    def _settle_and_remove(self) -> None:
        try:
            self._settle(PATIENCE)
        finally:
            if self.enclosure is not None:
                self.enclosure.remove()

    def _make_record(self, outcome: Outcome) -> CallRecord:
        enclosure = self.enclosure
        usage = _NO_USAGE if enclosure is None else enclosure.usage()
        ended = time.monotonic() if self.ended is None else self.ended
        used = self.used if self.isolation == "inline" else None
        return CallRecord(
            id=self.id,
            parent_id=None if self.parent is None else self.parent.id,
            framework=self.framework,
            agent=self.agent,
            tool=self.tool,
            tool_call_id=self.tool_call_id,
            started_at=self.session.epoch + self.started,
            duration_s=ended - self.started,
            outcome=outcome,
            reason=self.reason or self.stopped,
            memory_peak_bytes=usage.memory_peak_bytes,
            cpu_usage_s=usage.cpu_usage_s,
            pids_peak=usage.pids_peak,
            io_read_bytes=usage.io_read_bytes,
            io_write_bytes=usage.io_write_bytes,
            throttled_s=usage.throttled_s,
            oom_kills=None if enclosure is None else enclosure.oom_kills(),
            **(self._seen or {}),
            limits=dict(self.policy.asked),
            cgroup=None if enclosure is None else enclosure.path,
            thread_cpu_s=None if used is None else used[0] / 1e6,
            memory_growth_bytes=None if used is None else used[1] * 1024,
            thread_memory_charged_bytes=None if used is None else self.charged,
            isolation=self.isolation,
        )
