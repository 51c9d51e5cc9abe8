"""What outlives its call as maintenance: under limits, for a time, and no longer than the run.

See `containment.maintenance` for what counts as that. Each call's maintenance gets a cgroup of its
own below the agent's, with the limits of the call: no process in it escapes its end, and it takes
no more memory there than in the call.
"""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING, Final

from agentcgroup.cgroup import Cgroup
from agentcgroup.containment.leftovers import move_with_children, terminate, with_children
from agentcgroup.containment.maintenance import detached
from agentcgroup.containment.process_group import ProcessGroup
from agentcgroup.containment.process_tree import ProcessTree
from agentcgroup.containment.tree import Branch, discard
from agentcgroup.enforcement.deadlines import Deadlines
from agentcgroup.threads import Lock

if TYPE_CHECKING:
    from agentcgroup.calls.call import Call
    from agentcgroup.calls.services import Services

__all__ = ["MAINTENANCE_TIME", "Maintenance"]

logger = logging.getLogger("agentcgroup")

#: Seconds that maintenance may take after its call.
MAINTENANCE_TIME: Final = 60.0
#: Calls whose maintenance goes on at the same time; what further ones leave is ended with them.
_MOST: Final = 8


class Maintenance:
    """The maintenance of the ended calls of one session."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._lock = Lock()
        self._held: set[_Held] = set()
        self._deadlines = Deadlines(self._held, lambda _: None)

    def take(self, call: Call, group: ProcessGroup) -> bool:
        """Take known maintenance, with what is below it, out of the group of a call that ends.

        Returns:
            False where there is none, or it stays a leftover: the policy decides on it, too much
            goes on, or there can be no cgroup for it.
        """
        if call.policy.background != "auto" or call.contained is None:
            return False
        found = detached(group.all_procs())
        if not found or call.contained.events().out_of_memory:
            return False
        services = self._services
        self._drop_ended()
        with self._lock:
            if len(self._held) >= _MOST or services.closed:
                return False
            try:
                held = self._hold(call, group, sorted(set(found.values())))
            except OSError as error:
                logger.warning("agentcgroup: maintenance ends with its call: %s", error)
                return False
            try:
                held.bring_in(group, set(found))
            except BaseException:
                held.discard()
                raise
            self._held.add(held)
        if held.deadline < self._deadlines.wakes_at:
            self._deadlines.wake(held.deadline)
        logger.info(
            "agentcgroup: %s, which tool %r detached, goes on for at most %g s",
            held.names,
            call.tool,
            MAINTENANCE_TIME,
        )
        return True

    def close(self) -> None:
        """End what goes on: the run ends."""
        self._deadlines.close()
        with self._lock:
            held = [*self._held]
            self._held.clear()
        for one in held:
            terminate(one.group)
        began = time.monotonic()
        for one in held:
            one.group.wait_empty(max(0.0, began + one.grace - time.monotonic()))
            with contextlib.suppress(OSError):  # the end of the run removes it, and reports it
                one.discard()

    def _hold(self, call: Call, group: ProcessGroup, names: list[str]) -> _Held:
        """Make what holds the maintenance of a call.

        Raises:
            OSError: its cgroup cannot be made.
        """
        services = self._services
        run = services.cgroups.branch()
        if run is None or not isinstance(group, Cgroup):
            return _Held(self, call, names, ProcessTree(), None)
        branch = services.cgroups.agent_branch(run, call.framework, call.agent)
        try:
            made = branch.make_child("maintenance", call.policy.limits)
        except BaseException:
            branch.leave()
            raise
        services.monitor.release(group)
        return _Held(self, call, names, made, branch)

    def _drop_ended(self) -> None:
        """Remove the cgroups of what has ended by itself."""
        for held in [*self._held]:
            if not held.group.populated():
                self.drop(held)

    def drop(self, held: _Held) -> None:
        """Remove the cgroup of what has ended, or was killed."""
        with self._lock:
            if held not in self._held:
                return
            self._held.remove(held)
        self._services.deferred.put(held.discard)

    def tell_ended(self, held: _Held) -> None:
        """Log that it took too long."""
        self._services.warn(
            f"{held.names}, which tool {held.tool!r} detached, is ended after"
            f' {MAINTENANCE_TIME:g} s. A rule with background = "keep" for this tool gives it the'
            " time of the run.",
            about=f"maintenance: {held.names}",
        )


class _Held:
    """The maintenance of one call: what `enforcement.deadlines` stops when its time is over."""

    def __init__(
        self,
        owner: Maintenance,
        call: Call,
        names: list[str],
        group: ProcessGroup,
        branch: Branch | None,
    ) -> None:
        self._owner = owner
        self._branch = branch
        self._asked = False
        self.deadline = time.monotonic() + MAINTENANCE_TIME
        self.stopped: str | None = None
        self.names = ", ".join(names)
        self.tool = call.tool
        self.grace = call.policy.leftover_grace
        self.group = group

    def bring_in(self, source: ProcessGroup, pids: set[int]) -> None:
        """Move processes, and what is below them, from the group of their call."""
        if isinstance(self.group, Cgroup):
            move_with_children(source, pids, self.group)
        elif isinstance(source, ProcessTree):
            family = with_children(pids, source.all_procs())
            for pid in family:
                self.group.note_child(pid)
            source.forget(family)

    def stop(self, reason: str) -> None:
        """Ask it to end; the second time, end it."""
        if not self.group.populated():
            self._owner.drop(self)
            return
        if not self._asked:
            self._owner.tell_ended(self)
        if not self._asked and self.grace:
            self._asked = True
            terminate(self.group)
            self.deadline = time.monotonic() + self.grace
        else:
            self.stopped = reason
            self.group.kill()
            self._owner.drop(self)

    def discard(self) -> None:
        """Kill what is left, and remove the cgroup.

        Raises:
            OSError: EBUSY when processes do not die.
        """
        try:
            self.group.kill()
            discard(self.group)
        finally:
            if self._branch is not None:
                self._branch.leave()
