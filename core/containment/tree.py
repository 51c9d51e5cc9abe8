"""The run's cgroups, run > agent > call (> agent > call), each made when it is first needed.

A cgroup whose controllers are on for its children cannot hold processes itself (cgroup-v2.rst,
"No Internal Process Constraint"). So a cgroup here is either a leaf, where processes live, or a
`Branch`, below which others stand. Directory names are counted, never taken from a model:
``agent-3``, ``call-17``.

A call waits for nothing that can be done ahead of it: each branch keeps one spare cgroup per set
of limits, made, limited and its files opened by `prepare`: behind the calls, or while a child of
the last one starts when they come one upon the other. Spares are taken once and never come back:
counters stay those of one call.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable

from agentcgroup.cgroup import Cgroup, Limits

__all__ = ["Branch", "Roots", "discard"]

logger = logging.getLogger("agentcgroup")

#: Sets of limits for which one branch keeps a spare; further ones are made when asked for.
_SPARE_KINDS = 4
#: Agents without a running call that keep their cgroup; beyond it the longest idle one goes.
_IDLE_AGENTS = 32


class Roots:
    """What all branches of one run share: which controllers are on and what is written."""

    def __init__(
        self,
        controllers: frozenset[str],
        on_unmet: Callable[[str, frozenset[str]], None],
        *,
        on_made: Callable[[Cgroup], None],
        limiting: bool = True,
    ) -> None:
        """Hold `controllers` to switch on; `on_unmet` hears of limits that could not be written.

        `on_made` hears of each cgroup for a call, before anything is in it. With `limiting` off
        (mode ``observe``), and without controllers, nothing is written.
        """
        self.controllers = controllers
        self.limiting = limiting and bool(controllers)
        self.on_unmet = on_unmet
        self.on_made = on_made

    def limit(self, cgroup: Cgroup, limits: Limits) -> None:
        """Write `limits`; what this kernel or place does not take is reported, not dropped."""
        if self.limiting:
            unmet = cgroup.set(limits)
            if unmet:
                self.on_unmet(cgroup.path, frozenset(unmet))


class Branch:
    """A cgroup below which agents and calls stand: the run, an agent, a call with calls inside."""

    def __init__(self, cgroup: Cgroup, roots: Roots, above: Branch | None = None) -> None:
        """Switch the controllers on below `cgroup`, which must hold no process."""
        self.cgroup = cgroup
        self._above = above
        self._active = 0
        self._roots = roots
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._agents: OrderedDict[tuple[str, str | None], Branch] = OrderedDict()
        self._spares: OrderedDict[Limits, Cgroup] = OrderedDict()
        self._background: Cgroup | None = None
        self.controllers = cgroup.enable(roots.controllers) if roots.controllers else frozenset()

    def sprout(self, kind: str, limits: Limits | None = None) -> Cgroup:
        """Make the next cgroup of a kind below this one.

        Raises:
            OSError: it cannot be made or a limit cannot be written; then none is left.
        """
        while True:
            try:
                child = self.cgroup.child(f"{kind}-{next(self._numbers)}")
                break
            except FileExistsError:  # left by an earlier session of this process
                continue
        if limits is not None:
            try:
                self._roots.limit(child, limits)
            except BaseException:
                discard(child)
                raise
        return child

    def agent(self, framework: str, name: str | None, limits: Callable[[], Limits]) -> Branch:
        """Return the branch of an agent, made at its first call; each is paired by a `leave`."""
        key = (framework, name)
        with self._lock:
            branch = self._agents.get(key)
            if branch is None:
                branch = Branch(self.sprout("agent", limits()), self._roots, self)
                self._agents[key] = branch
            self._agents.move_to_end(key)
            branch._active += 1
        return branch

    def leave(self) -> None:
        """Say that a call of this agent has ended; retires an agent that is long idle."""
        above = self._above
        if above is None:
            return
        retired = None
        with above._lock:
            self._active -= 1
            if len(above._agents) > _IDLE_AGENTS:
                retired = above._pop_idle()
        if retired is not None:
            retired.remove()

    def _pop_idle(self) -> Branch | None:
        for key, branch in self._agents.items():
            if branch._active == 0 and branch._background is None:
                return self._agents.pop(key)
        return None

    def take(self, limits: Limits) -> Cgroup:
        """Return a cgroup for one call: a spare when there is one with these limits."""
        with self._lock:
            spare = self._spares.pop(limits, None)
        return spare if spare is not None else self._call(limits)

    def prepare(self, limits: Limits) -> None:
        """Make a spare ahead of need, if there is none."""
        with self._lock:
            if limits in self._spares:
                return
        spare = self._call(limits)
        spare.keep_open()
        dropped: Cgroup | None = None
        with self._lock:
            if limits in self._spares:
                dropped = spare
            else:
                self._spares[limits] = spare
                if len(self._spares) > _SPARE_KINDS:
                    _, dropped = self._spares.popitem(last=False)
        if dropped is not None:
            discard(dropped)

    def _call(self, limits: Limits) -> Cgroup:
        made = self.sprout("call", limits)
        self._roots.on_made(made)
        return made

    def background(self) -> Cgroup:
        """Return the leaf for processes that outlive their call, made when first needed."""
        with self._lock:
            if self._background is None:
                self._background = self.cgroup.child("background")
            return self._background

    def remove(self) -> None:
        """End every process below and remove every cgroup, this one last."""
        with self._lock:
            below = [*self._agents.values()]
            leaves = [*self._spares.values()]
            if self._background is not None:
                leaves.append(self._background)
            self._agents.clear()
            self._spares.clear()
            self._background = None
        for branch in below:
            branch.remove()
        for cgroup in (*leaves, self.cgroup):
            discard(cgroup)


def discard(cgroup: Cgroup) -> None:
    """Remove a cgroup for good and let go of it.

    Raises:
        OSError: EBUSY when processes in it do not die.
    """
    try:
        cgroup.remove()
    finally:
        cgroup.close()
