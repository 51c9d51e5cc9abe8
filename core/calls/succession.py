"""Who owns what the code of an ended call starts.

Threads, tasks and work items keep the call that started them, and some live on: a worker with a
queue, a lazily started event loop, a body that its timeout could not stop. What they start after
their call's end belongs to the one call that runs in this process, since it can only work for that
one; with several running calls, or none, to the background cgroup of the ended call's agent.

A body that was given up is refused instead: its command would run without the limits of its call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentcgroup.calls.refusal import refuse_if_over
from agentcgroup.scope import DelegatedSpawns, SpawnTarget
from agentcgroup.work_items import given_up

if TYPE_CHECKING:
    from agentcgroup.calls.call import Call

__all__ = ["AgentBackground", "Succession", "is_helper", "successor"]


def is_helper(call: Call) -> bool:
    """Return whether this code outlives `call`, which started it, and is no body given up."""
    return call.ended is not None and not (call.stopped is not None and given_up())


def successor(call: Call) -> SpawnTarget:
    """Return the owner of what the code of an ended call starts now.

    Raises:
        LimitExceeded: the code is a body that was given up when its call was stopped.
    """
    if not is_helper(call):
        refuse_if_over(call)
    running = _only_running(call)
    return AgentBackground(call) if running is None else running


def _only_running(ended: Call) -> Call | None:
    """Return the innermost running call where all others run around it; None without or beside."""
    running = [*ended.services.running]  # the calls of other threads begin and end meanwhile
    if len(running) < 2:
        return running[0] if running else None
    innermost = max(running, key=lambda call: call.number)
    around = {innermost, *innermost.around()}
    return innermost if around.issuperset(running) else None


class Succession:
    """The spawns of one ended call that its successors have begun and not ended."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._spawns = DelegatedSpawns()

    def begin_spawn(self, failed: OSError | None) -> int | None:
        """Begin a spawn of the successor; see `scope.SpawnTarget`."""
        target = successor(self._call) if failed is None else AgentBackground(self._call)
        return self._spawns.begin(target)

    def end_spawn(self, pid: int | None) -> bool:
        """End the spawn that this thread began; return False where it began none."""
        return self._spawns.end(pid)


class AgentBackground:
    """The `scope.SpawnTarget` of what outlives the calls of an agent."""

    over = False

    def __init__(self, call: Call) -> None:
        self._call = call

    def begin_spawn(self, _failed: OSError | None = None) -> int | None:
        """Return the directory fd of the agent's background cgroup."""
        call = self._call
        fd = call.services.cgroups.agent_background_fd(call.framework, call.agent)
        call.services.monitor.placing(True)
        return fd

    def end_spawn(self, _pid: int | None) -> None:
        """Take note that a spawn is done."""
        self._call.services.monitor.placing(False)

    def note_child(self, pid: int) -> None:
        """Do nothing: a cgroup knows its children."""

    def background(self) -> AgentBackground:
        """Return itself."""
        return self

    def note_helpers(self) -> None:
        """Do nothing: it has no record."""
