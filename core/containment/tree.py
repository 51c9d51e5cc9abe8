"""The cgroups of a run: run > agent > call (> agent > call), each made at its first use.

A cgroup whose controllers are on for its children cannot hold processes itself (cgroup-v2.rst,
"No Internal Process Constraint"). So each cgroup is either a leaf, which holds processes, or a
`Branch`, which holds other cgroups. Directory names are counted, never taken from a model:
``agent-3``, ``call-17``.

`Branch.prepare` makes a cgroup ahead of the call that will take it: each branch keeps one spare per
set of limits, with the limits written and its files open. It runs after a call has ended, or, when
calls come one upon the other, while a child of the last call starts. A spare serves one call, so
that its counters are those of one call.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping

from agentcgroup.cgroup import Cgroup, Limits
from agentcgroup.containment.process_group import ProcessGroup
from agentcgroup.threads import Lock

__all__ = ["Branch", "TreeOptions", "discard"]

logger = logging.getLogger("agentcgroup")

#: Sets of limits for which one branch keeps a spare; further ones are made when asked for.
_SPARE_KINDS = 4
#: Agents without a running call that keep their cgroup; beyond it the longest idle one goes.
_IDLE_AGENTS = 32
#: Seconds that making one cgroup may take.
_MAKING = 5.0


class TreeOptions:
    """What all branches of one run have in common.

    Attributes:
        controllers: the controllers that a branch enables for its children.
        limiting: whether limits are written: not in mode ``observe``, nor without controllers.
        on_unmet: called with a cgroup's path and the limits that do not hold, as `Cgroup.set`
            returns them.
        on_made: called with each cgroup for a call, before a process is in it.
    """

    def __init__(
        self,
        controllers: frozenset[str],
        on_unmet: Callable[[str, Mapping[str, OSError | None]], None],
        *,
        on_made: Callable[[Cgroup], None],
        limiting: bool = True,
    ) -> None:
        self.controllers = controllers
        self.limiting = limiting and bool(controllers)
        self.on_unmet = on_unmet
        self.on_made = on_made

    def limit(self, cgroup: Cgroup, limits: Limits) -> None:
        """Write `limits`; `on_unmet` reports those that do not hold."""
        if self.limiting:
            unmet = cgroup.set(limits)
            if unmet:
                self.on_unmet(cgroup.path, unmet)


class Branch:
    """A cgroup that holds other cgroups: of the run, of an agent, of a call with calls inside."""

    def __init__(self, cgroup: Cgroup, options: TreeOptions, above: Branch | None = None) -> None:
        """Enable the controllers for the children of `cgroup`, which must hold no process."""
        self.cgroup = cgroup
        self._above = above
        self._active = 0
        self.options = options
        self._numbers = itertools.count(1)
        self._lock = Lock()
        self._agents: OrderedDict[tuple[str, str | None], Branch] = OrderedDict()
        self._spares: OrderedDict[Limits, Cgroup] = OrderedDict()
        self._background: Cgroup | None = None
        self._kept: list[Cgroup] = []
        # By name, what is below this one and not closed, or when it was begun to be made.
        self._made: dict[str, weakref.ref[Cgroup] | float] = {}
        self.controllers = (
            cgroup.enable(options.controllers) if options.controllers else frozenset()
        )

    def make_child(self, kind: str, limits: Limits | None = None) -> Cgroup:
        """Make the next cgroup of a kind (``agent`` or ``call``) below this one.

        Raises:
            OSError: the cgroup cannot be made, or `on_unmet` raised it; then no cgroup is left.
        """
        while True:
            name = f"{kind}-{next(self._numbers)}"
            self._made[name] = time.monotonic()
            try:
                child = self.cgroup.child(name)
            except FileExistsError:  # left by an earlier session of this process
                del self._made[name]
            else:
                self._made[name] = weakref.ref(child)
                break
        if limits is not None:
            try:
                self.options.limit(child, limits)
            except BaseException:
                discard(child)
                raise
        return child

    def agent(self, framework: str, name: str | None, limits: Callable[[], Limits]) -> Branch:
        """Return the branch of an agent, made at its first call; `leave` ends each use."""
        key = (framework, name)
        with self._lock:
            branch = self._agents.get(key)
            if branch is None:
                branch = Branch(self.make_child("agent", limits()), self.options, self)
                self._agents[key] = branch
            self._agents.move_to_end(key)
            branch._active += 1
        return branch

    def forget_removed(self) -> None:
        """Forget agents and spares whose cgroup another program has removed."""
        with self._lock:
            for key, branch in list(self._agents.items()):
                if not branch.cgroup.exists():
                    del self._agents[key]
            for limits, spare in list(self._spares.items()):
                if not spare.exists():
                    del self._spares[limits]
            below = [*self._agents.values()]
        for branch in below:
            branch.forget_removed()

    def leave(self) -> None:
        """Count a call of this agent as ended; remove the branch of the longest idle agent."""
        above = self._above
        self._discard_abandoned()
        if above is None:
            return
        above._discard_abandoned()
        retired = None
        with above._lock:
            self._active -= 1
            if len(above._agents) > _IDLE_AGENTS:
                retired = above._pop_idle()
        if retired is not None:
            retired.remove()

    def _discard_abandoned(self) -> None:
        """Remove the cgroups of no one: a signal handler raised while one was made or taken."""
        for name, made in list(self._made.items()):
            if isinstance(made, float):
                if time.monotonic() - made < _MAKING:
                    continue
            elif (cgroup := made()) is not None:
                if cgroup.fd < 0:  # closed
                    self._made.pop(name, None)
                continue
            self._made.pop(name, None)
            with contextlib.suppress(OSError):  # it was never made, or another program removed it
                discard(Cgroup.open(f"{self.cgroup.path}/{name}"))

    def _pop_idle(self) -> Branch | None:
        for key, branch in self._agents.items():
            if branch._active == 0 and branch._background is None and not branch._kept:
                return self._agents.pop(key)
        return None

    def take(self, limits: Limits) -> Cgroup:
        """Return a cgroup for one call: a spare with these limits, else a new one."""
        with self._lock:
            spare = self._spares.pop(limits, None)
        return spare if spare is not None else self._make_call(limits)

    def prepare(self, limits: Limits) -> None:
        """Make a spare cgroup with these limits, if there is none."""
        with self._lock:
            if limits in self._spares:
                return
        spare = self._make_call(limits)
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

    def _make_call(self, limits: Limits) -> Cgroup:
        made = self.make_child("call", limits)
        self.options.on_made(made)
        return made

    def background(self) -> Cgroup:
        """Return the leaf for processes that outlive their call, made at its first use."""
        with self._lock:
            if self._background is None:
                self._background = self.cgroup.child("background")
            return self._background

    def keep(self, cgroup: Cgroup) -> None:
        """Keep the cgroup of a call, with the processes in it, until this branch is removed."""
        with self._lock:
            self._kept.append(cgroup)

    def remove(self) -> None:
        """Kill every process below and remove every cgroup, this one last."""
        with self._lock:
            below = [*self._agents.values()]
            leaves = [*self._spares.values(), *self._kept]
            if self._background is not None:
                leaves.append(self._background)
            self._agents.clear()
            self._spares.clear()
            self._background = None
            self._kept = []
        for branch in below:
            branch.remove()
        for cgroup in (*leaves, self.cgroup):
            discard(cgroup)


def discard(group: ProcessGroup) -> None:
    """Kill the processes of a group, remove it, and close its descriptors.

    Raises:
        OSError: EBUSY when processes in it do not die.
    """
    try:
        group.remove()
    finally:
        group.close()
