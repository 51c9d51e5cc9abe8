"""The cgroups around a call: what the kernel counted there, and which limits do not hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from agentcgroup.cgroup import Events

if TYPE_CHECKING:
    from agentcgroup.calls.call import Call

__all__ = ["events_above", "unmet"]


def events_above(call: Call) -> Iterator[tuple[str, Events]]:
    """Yield the events of each cgroup above a call's, nearest first, by the name of its limit."""
    around: Call | None = call
    while around is not None:
        if around.contained is not None:
            group = around.contained.group
            if around is not call and group.cgroup is not None:
                yield "parent.memory_max", group.cgroup.events()
            if group.agent_branch is not None:
                yield "agent.memory_max", group.agent_branch.cgroup.events()
        around = around.parent
    if (run := call.services.cgroups.branch()) is not None:
        yield "run.memory_max", run.cgroup.events()


def unmet(call: Call) -> tuple[str, ...]:
    """Return the limits that do not hold for a call, its agent's and the run's included."""
    if call.contained is None:
        return ()
    run = call.services.cgroups.made
    names = list(call.contained.group.unmet)
    around: Call | None = call
    while around is not None:  # inside another call of its agent it has the branch of that call
        branch = None if around.contained is None else around.contained.group.agent_branch
        if branch is not None:
            names += [f"agent.{key}" for key in branch.cgroup.unmet]
            break
        around = around.parent
    if run is not None:
        names += [f"run.{key}" for key in run.cgroup.unmet]
    return tuple(names)
