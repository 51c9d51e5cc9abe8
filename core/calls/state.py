"""The state of a call: what it is, and the transitions and notes that change it.

::

    opened ──begin──▶ running ──end──▶ ended ──settle──▶ settled
       │                 │               ▲
       └──request_stop───┴─▶ stopping ───┘

The methods of this module are the only code that changes a call; each is one transition, or one
note. A transition that is not allowed raises RuntimeError. `lifecycle` decides when they run.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, Literal

from agentcgroup.config.policy import Policy
from agentcgroup.enforcement.verdict import UNCONTAINED
from agentcgroup.errors import Unshippable
from agentcgroup.records.record import Isolated, Outcome
from agentcgroup.threads import get_ident

if TYPE_CHECKING:
    from agentcgroup.calls.call import Call
    from agentcgroup.calls.inline_usage import Used
    from agentcgroup.enforcement.deadlines import Deadlines

__all__ = ["CallState", "Identity", "State"]

#: Agent, tool and tool_call_id of a call, as the framework and the model gave them. No class of
#: its own: to make one of that takes 0.1 % of a call by LangChain.
Identity = tuple[str | None, str, str | None]

#: How the reasons begin for which a call was limited, whatever its outcome.
_LIMITING: Final = ("pids_max", UNCONTAINED)

State = Literal["opened", "running", "stopping", "ended", "settled"]


class CallState:
    """What a call is: identity, policy, times, outcome.

    Attributes:
        number: counted from 1 in each session.
        policy: the limits and choices that the configuration resolves for it.
        parent: the call it runs inside, None at the top.
        framework, agent, tool, tool_call_id: as in its `CallRecord`.
        key: the tool object while the call runs; an adapter recognises a re-entry by it.
        started, ended: by `time.monotonic`, seconds; `ended` is None until then.
        deadline: when its time is over, by the same clock; None without a timeout.
        stopped: the first reason for which it was stopped, None while it was not.
        outcome, reason: how it ended; `outcome` is None until it is judged.
        settled: whether its record can be made, and will not change.
        used: what its sync body used inline, None where nothing measured it.
        charged: bytes of memory that the kernel charged to threads that worked for it.
        isolation: where the tool's body runs: ``process`` once a worker was asked to run it.
        died: how that worker ended before the body did, None while it did not.
        unshippable: what could not be sent to a worker or back.
        refused: for that reason the call is an error, and did not run inline instead.
        thread: the thread in which its body began, by `threading.get_ident`.
        awaited: a task awaits its body, which its deadline cancels.
        used_helpers: it used, or left behind, processes of a pool that no call owns.
    """

    __slots__ = (
        "_all_running",
        "_deadlines",
        "_running",
        "agent",
        "awaited",
        "charged",
        "deadline",
        "died",
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
        "settled",
        "started",
        "stopped",
        "thread",
        "tool",
        "tool_call_id",
        "unshippable",
        "used",
        "used_helpers",
    )

    def __init__(
        self,
        number: int,
        policy: Policy,
        parent: Call | None,
        framework: str,
        agent: str | None,
        tool: str,
        tool_call_id: str | None,
        key: object,
        *,
        limiting: bool,
        running: set[Any],
        deadlines: Deadlines[Any],
    ) -> None:
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
        self.deadline = None if timeout is None or not limiting else self.started + timeout
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
        self.used_helpers = False
        self.thread = 0
        self.awaited = False
        self._all_running = running
        self._deadlines = deadlines
        self._running = False
        self.settled = False

    # -- what it is -----------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The state it is in."""
        if self.settled:
            return "settled"
        if self.ended is not None:
            return "ended"
        if self.stopped is not None:
            return "stopping"
        return "running" if self._running else "opened"

    @property
    def limited(self) -> bool:
        """Whether a limit took the place of the tool's own end."""
        reason = self.reason or ""
        if reason == "overdue":
            return False
        return self.outcome in ("oom", "timeout", "killed") or reason.startswith(_LIMITING)

    @property
    def told(self) -> bool:
        """Whether its end is worth a sentence to the model."""
        return self.limited or self.refused or self.reason in ("leftovers", "overdue")

    @property
    def over(self) -> bool:
        """Whether no further process belongs to it: it has ended, or was stopped."""
        return self.ended is not None or self.stopped is not None

    @property
    def outlived(self) -> bool:
        """Whether it has ended well; what a thread of its tool starts now belongs to the run."""
        return self.ended is not None and self.stopped is None

    @property
    def kept_for(self) -> str | None:
        """The key of the later calls that its worker may serve; None where it serves one call."""
        return f"{self.framework}:{self.tool}" if self.policy.reuse > 1 else None

    def around(self) -> Iterator[Call]:
        """Yield the calls that this one runs inside, nearest first.

        Of those that ended before it only the stopped ones: nothing inside outlives a stopped call.
        """
        above = self.parent
        while above is not None:
            if above.ended is None or above.stopped is not None:
                yield above
            above = above.parent

    def around_now(self) -> Call | None:
        """Return the nearest running call that this one runs inside."""
        above = self.parent
        while above is not None and above.ended is not None:
            above = above.parent
        return above

    # -- transitions ----------------------------------------------------------------------------

    def begin(self) -> None:
        """Make it running: its body is about to run."""
        if self._running or self.ended is not None:
            raise RuntimeError(f"call {self.number} is {self.state} and cannot begin")
        self._running = True
        self.thread = get_ident()
        self._all_running.add(self)
        if self.deadline is not None and self.deadline < self._deadlines.wakes_at:
            self._deadlines.wake(self.deadline)

    def request_stop(self, reason: str) -> bool:
        """Make it stopping; return False when it has ended. The first reason stands."""
        if self.ended is not None:
            return False
        self.stopped = self.stopped or reason
        return True

    def end(self, used: Used | None = None, *, cancelled: bool = False) -> None:
        """Make it ended: its body has returned or raised."""
        if self.ended is not None:
            raise RuntimeError(f"call {self.number} is {self.state} and cannot end")
        self.ended = time.monotonic()
        self._all_running.discard(self)
        self.key = None
        if used is not None:
            self.used = used
        if cancelled and self.stopped is None:
            self.stopped = "cancelled"  # whichever thread still works for it

    def judge(self, outcome: Outcome, reason: str | None) -> None:
        """Set how it ended."""
        if self.ended is None or self.outcome is not None:
            raise RuntimeError(f"call {self.number} is {self.state} and cannot be judged")
        self.outcome, self.reason = outcome, reason

    def settle(self) -> None:
        """Make it settled: its usage is read and its record handed over."""
        if self.outcome is None or self.settled:
            raise RuntimeError(f"call {self.number} is {self.state} and cannot be settled")
        self.settled = True

    def reparent(self) -> None:
        """Leave a parent that has ended: a task that outlived that call started this one."""
        self.parent = self.around_now()

    def restart_clock(self) -> None:
        """Have its time begin now: it has waited for something that is not its tool's."""
        if self._running or self.ended is not None:
            raise RuntimeError(f"call {self.number} is {self.state} and cannot begin anew")
        now = time.monotonic()
        if self.deadline is not None:
            self.deadline += now - self.started
        self.started = now

    # -- notes ----------------------------------------------------------------------------------

    def note_inline_usage(self, used: Used) -> None:
        """Note what its sync body used inline, measured by the thread that ran it."""
        self.used = used

    def note_charged(self, charged: int) -> None:
        """Add bytes of memory that the kernel charged to a thread that worked for it."""
        self.charged = charged + (self.charged or 0)

    def note_helpers(self) -> None:
        """Note that it uses, or leaves behind, processes of a pool that no call owns."""
        self.used_helpers = True

    def note_isolated(self, isolation: Isolated) -> None:
        """Note where its body runs."""
        self.isolation = isolation

    def note_awaited(self) -> None:
        """Note that a task awaits its body."""
        self.awaited = True

    def note_deadline(self, deadline: float) -> None:
        """Note that its time is over later: its worker has imported modules meanwhile."""
        self.deadline = deadline

    def note_worker_died(self, how: str) -> None:
        """Note how its worker ended before the body did, unless the call was stopped."""
        if self.stopped is None:
            self.died = how

    def note_unshippable(self, unshippable: Unshippable, *, refused: bool) -> None:
        """Note what could not be sent, and whether the call is refused for it."""
        self.unshippable = unshippable
        self.refused = self.refused or refused
