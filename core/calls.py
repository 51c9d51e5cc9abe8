"""One execution of one tool: its identity, its cgroup, its end.

A call that starts no process has no cgroup and costs microseconds. At its first child it takes one
(`begin_spawn`), and from then on has a deadline that can be kept. It ends once, by `finish`, which
reads what the kernel counted and says how the call ended. A call that met no limit is settled
behind its back: usage read, cgroup removed, record handed out; one that did is settled at once,
because the answer to the model carries the figures.

A call may hold further calls (a tool that runs an agent). Then its cgroup becomes a branch, and
its own processes move to a leaf in it, ``self``.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from agentcgroup import feedback
from agentcgroup.cgroup import Cgroup, Events
from agentcgroup.enforcement import verdict
from agentcgroup.errors import LimitExceeded
from agentcgroup.policy import Policy
from agentcgroup.processes import ProcessTree
from agentcgroup.records import CallRecord, Outcome
from agentcgroup.tree import Branch, discard

if TYPE_CHECKING:
    from agentcgroup.session import Session

__all__ = ["Call"]

logger = logging.getLogger("agentcgroup")

#: Seconds that processes of a tool that has ended may take to be gone before they are left over:
#: a pipeline's last member or a server told to stop is on its way out.
LINGER: Final = 0.05
#: Seconds to wait, in the tool's own thread, for killed processes to be gone.
KILL_WAIT: Final = 2.0
_SETTLE_WAIT: Final = 30.0


class Call:
    """One call; made by `Session.start`, current in its context while the tool's body runs."""

    __slots__ = (
        "_branch",
        "_cgroup",
        "_ended",
        "_home",
        "_leaf",
        "_lock",
        "_record",
        "_spawning",
        "agent",
        "ended_at",
        "framework",
        "key",
        "number",
        "outcome",
        "parent",
        "policy",
        "reason",
        "session",
        "started",
        "started_at",
        "stopped",
        "tool",
        "tool_call_id",
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
        self.started_at = time.time()
        self.started = time.monotonic()
        self.ended_at = 0.0
        self.stopped: str | None = None
        self.outcome: Outcome | None = None
        self.reason: str | None = None
        self._lock = threading.Lock()
        self._spawning = 0
        self._ended = False
        self._home: Branch | None = None  # the agent's branch that the cgroup came from
        self._cgroup: Cgroup | None = None
        self._leaf: Cgroup | ProcessTree | None = None  # where the children live
        self._branch: Branch | None = None
        self._record: CallRecord | None = None

    # -- what spawn asks ----------------------------------------------------------------------

    def begin_spawn(self, failed: OSError | None = None) -> int | None:
        """Return the directory fd for the next child; see `scope.Home`."""
        with self._lock:
            if self._ended:
                return self._late_home()
            if self._overdue():
                self.stopped = "timeout"
            if self.stopped is not None:
                raise self._refusal()
            if failed is not None and self._branch is None:
                # Somebody else removed our cgroup: what was in it is gone, the call goes on.
                logger.warning("agentcgroup: the cgroup of call %s is gone: %s", self.id, failed)
                self._cgroup = self._leaf = None
            if self._leaf is None:
                self._leaf = self._make_leaf()
            self._spawning += 1
            return self._leaf.fd

    def end_spawn(self, pid: int | None) -> None:
        """Say that a spawn is done; see `scope.Home`."""
        with self._lock:
            if self._spawning:
                self._spawning -= 1
            leaf, stopped = self._leaf, self.stopped
        if leaf is None:
            return
        if pid is not None and isinstance(leaf, ProcessTree):
            leaf.add(pid)
        if stopped is not None:
            # Born between our kill and now.
            leaf.kill()

    def _make_leaf(self) -> Cgroup | ProcessTree:
        if self._branch is not None:
            return self._branch.cgroup.child("self")
        self._cgroup = self._take_cgroup()
        if self.policy.timeout is not None and self.session.limiting:
            self.session.watcher.arm(self, self.policy.timeout, self.started + self.policy.timeout)
        return self._cgroup if self._cgroup is not None else ProcessTree()

    def _take_cgroup(self) -> Cgroup | None:
        """Take a cgroup below the agent, or below the call this one runs in."""
        with self.session.containing():
            if self.parent is not None:
                above = self.parent.branch()
                if above is not None and self.parent.agent == self.agent:
                    return above.take(self.policy.limits)
            else:
                above = self.session.branch()
            if above is None:
                return None
            self._home = self.session.agent_branch(above, self.framework, self.agent)
            return self._home.take(self.policy.limits)
        return None

    def branch(self) -> Branch | None:
        """Return the branch for calls inside this one; None where there are no cgroups."""
        with self._lock:
            if self._branch is not None:
                return self._branch
            if self._leaf is None:
                self._make_leaf_of_branch()
            if self._cgroup is None:
                return None
            if self._leaf is self._cgroup:
                self._leaf = self._cgroup.child("self")
                self._move_in(self._cgroup, self._leaf)
            self._branch = Branch(self._cgroup, self.session.roots)
            return self._branch

    def _make_leaf_of_branch(self) -> None:
        """Take the cgroup without a process in it: it becomes a branch before it has one."""
        leaf = self._make_leaf()
        if leaf is not self._cgroup:
            self._leaf = leaf

    def _move_in(self, source: Cgroup, target: Cgroup) -> None:
        """Move every process; those forked meanwhile too."""
        for _ in range(100):
            procs = source.procs()
            if not procs:
                return
            for pid in procs:
                with contextlib.suppress(ProcessLookupError):
                    target.join(pid)

    def _late_home(self) -> int | None:
        """A thread of a call that has ended starts a process: it lives with the agent."""
        with self.session.containing():
            home = self._home or self.session.branch()
            return None if home is None else home.background().fd
        return None

    def _overdue(self) -> bool:
        timeout = self.policy.timeout
        return (
            timeout is not None
            and self.session.limiting
            and time.monotonic() > self.started + timeout
        )

    def _refusal(self) -> LimitExceeded:
        record = self._make_record("timeout" if self.stopped == "timeout" else "killed")
        told = feedback.sentence(record) or f"The call of tool {self.tool!r} is over."
        return LimitExceeded(told, record=record)

    # -- how it ends --------------------------------------------------------------------------

    def stop(self, reason: str) -> None:
        """End every process of the call now; none can start in it any more."""
        with self._lock:
            if self._ended or self.stopped is not None:
                return
            self.stopped = reason
            leaf = self._cgroup or self._leaf
        if leaf is not None:
            leaf.kill()

    def lingering(self) -> bool:
        """Say whether processes are still there."""
        leaf = self._cgroup or self._leaf
        return leaf is not None and leaf.populated()

    def finish(self, error: BaseException | None = None, *, cancelled: bool = False) -> bool:
        """End the call; True when there is something to tell the model, then `record` has it."""
        with self._lock:
            if self._ended:
                return False
            self._ended = True
        self.ended_at = time.monotonic()
        leaf = self._cgroup or self._leaf
        leftovers = False
        events = None
        if leaf is not None:
            if self.policy.timeout is not None:
                self.session.watcher.disarm(self, self.policy.timeout)
            leftovers = self._clear(leaf, error, cancelled)
            events = self._events(leaf)
        self.outcome, self.reason = verdict(
            stopped=self.stopped,
            error=error,
            cancelled=cancelled,
            events=events,
            above=self._above(),
            leftovers=leftovers,
        )
        if leaf is None or self.told:
            self._settle()
        else:
            self.session.janitor.put(self._settle)
        return self.told

    @property
    def told(self) -> bool:
        """Whether the way it ended is worth a sentence to the model."""
        return self.outcome in ("oom", "timeout", "killed") or self.reason is not None

    @property
    def limited(self) -> bool:
        """Whether a limit took the place of the tool's own end."""
        return self.outcome in ("oom", "timeout", "killed") or self.reason == "pids_max"

    @property
    def had_processes(self) -> bool:
        """Whether the call has started any process."""
        return self._leaf is not None

    @property
    def id(self) -> str:
        """The call's id in its record."""
        return f"{self.session.id}-{self.number}"

    @property
    def record(self) -> CallRecord:
        """The record of the finished call; settles it when that is still to be done."""
        self._settle()
        if self._record is None:
            raise RuntimeError("the call has not ended")
        return self._record

    def _clear(
        self, leaf: Cgroup | ProcessTree, error: BaseException | None, cancelled: bool
    ) -> bool:
        """Keep or end what still runs; True when processes were there that had to be ended."""
        over = cancelled or self.stopped is not None
        if not over:
            if not leaf.populated() or leaf.wait_empty(LINGER):
                return False
            if error is None and self.policy.background == "keep" and self._keep():
                return False
        leaf.kill()
        leaf.wait_empty(KILL_WAIT)
        return not over

    def _keep(self) -> bool:
        if self._home is None or not isinstance(self._leaf, Cgroup):
            return False
        self._move_in(self._leaf, self._home.background())
        return True

    def _events(self, leaf: Cgroup | ProcessTree) -> Events:
        """Count what hit this call's own processes, not those of the calls inside it."""
        events = leaf.events()
        if self._branch is None or not events.oom_kill or events.oom_local:
            return events
        own = self._leaf.events() if self._leaf is not None else None
        return own if own is not None else Events()

    def _above(self) -> Iterator[tuple[str, Events]]:
        call = self.parent
        if self._home is not None:
            yield "agent.memory_max", self._home.cgroup.events()
        while call is not None:
            if call._cgroup is not None:
                yield "parent.memory_max", call._cgroup.events()
            if call._home is not None:
                yield "agent.memory_max", call._home.cgroup.events()
            call = call.parent
        run = self.session.branch()
        if run is not None:
            yield "run.memory_max", run.cgroup.events()

    def _settle(self) -> None:
        """Read what the call used, hand out the record and remove the cgroup; once."""
        with self._lock:
            if self._record is not None or self.outcome is None:
                return
            self._record = self._make_record(self.outcome)
        self.session.emit(self._record)
        if self._cgroup is not None:
            self.session.janitor.put(self._remove)

    def _remove(self) -> None:
        deadline = time.monotonic() + _SETTLE_WAIT
        while self._spawning and time.monotonic() < deadline:
            time.sleep(0.001)
        if self._branch is not None:
            if isinstance(self._leaf, Cgroup):
                discard(self._leaf)
            self._branch.remove()
        elif self._cgroup is not None:
            discard(self._cgroup)
        if self._home is not None:
            self.session.leave(self._home, self.policy.limits)

    def _make_record(self, outcome: Outcome) -> CallRecord:
        leaf = self._cgroup or self._leaf
        usage = leaf.usage() if leaf is not None else None
        oom_kills = leaf.events().oom_kill if leaf is not None else None
        return CallRecord(
            id=self.id,
            parent_id=self.parent.id if self.parent is not None else None,
            framework=self.framework,
            agent=self.agent,
            tool=self.tool,
            tool_call_id=self.tool_call_id,
            started_at=self.started_at,
            duration_s=(self.ended_at or time.monotonic()) - self.started,
            outcome=outcome,
            reason=self.reason or self.stopped,
            memory_peak_bytes=usage.memory_peak_bytes if usage else None,
            cpu_usage_s=usage.cpu_usage_s if usage else None,
            pids_peak=usage.pids_peak if usage else None,
            io_read_bytes=usage.io_read_bytes if usage else None,
            io_write_bytes=usage.io_write_bytes if usage else None,
            throttled_s=usage.throttled_s if usage else None,
            oom_kills=oom_kills,
            limits=self.policy.asked,
            cgroup=self._cgroup.path if self._cgroup is not None else None,
        )
