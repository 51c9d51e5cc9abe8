"""How a call ended and why, from what was done to it and what the kernel counted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from agentcgroup.cgroup import Events
from agentcgroup.records.record import Outcome

__all__ = ["UNCONTAINED", "outcome_of", "verdict"]

#: How the reason begins of a call that was refused, because it can have no cgroup.
UNCONTAINED: Final = "uncontained: "


def outcome_of(stopped: str) -> Outcome:
    """Return the outcome of a call that was stopped for this reason."""
    if stopped == "timeout":
        return "timeout"
    if stopped == "memory_max":
        return "oom"
    return "rejected" if stopped.startswith(UNCONTAINED) else "killed"


def verdict(
    *,
    stopped: str | None,
    error: BaseException | None,
    cancelled: bool,
    events: Events | None,
    above: Iterable[tuple[str, Events]],
    leftovers: bool,
    died: str | None = None,
) -> tuple[Outcome, str | None]:
    """Return the outcome and the reason of a call.

    Args:
        stopped: the reason for which the call was stopped, None when it was not.
        error: what the tool raised.
        cancelled: the framework gave the call up.
        events: the events of the call's own cgroup.
        above: ("agent.memory_max", events) of each cgroup above it, nearest first; read only when
            a process was killed and the call's own limit was not reached.
        leftovers: processes were still running when the tool had ended, and were killed.
        died: how the worker process ended before the tool's body did, None when it did not.
    """
    if stopped == "timeout":
        return "timeout", "timeout"
    if events is not None and events.out_of_memory:
        return "oom", "memory_max" if events.oom_local else _which_limit(above)
    if stopped == "memory_max":  # seen by the sampler, where the kernel holds no memory limit
        return "oom", "memory_max"
    if cancelled or stopped == "cancelled":
        return "cancelled", "cancelled"
    if stopped is not None:
        return outcome_of(stopped), stopped
    if died is not None:
        return "killed", died
    if events is not None and events.pids_max:
        if leftovers:
            return "killed", "pids_max"
        return ("error" if error is not None else "ok"), "pids_max"
    if error is not None:
        return "error", "leftovers" if leftovers else None
    return "ok", "leftovers" if leftovers else None


def _which_limit(above: Iterable[tuple[str, Events]]) -> str:
    for reason, events in above:
        if events.oom_local:
            return reason
    return "system"
