"""The cgroup of one call and the processes in it: made at the first child, removed after the last.

A call may hold further calls (a tool that runs an agent). Then its cgroup becomes a branch, and its
own processes move to a leaf in it, ``self``: a cgroup with controllers on for its children cannot
hold processes (cgroup-v2.rst). So do its later children where a tool divides the cgroup itself (see
`subtree`). Where no cgroup can be made, processes are followed by parentage.

This module knows cgroups and processes. What it needs of the call it asks through `Owner`.
"""

from __future__ import annotations

import contextlib
import errno
import logging
from collections import deque
from collections.abc import Callable
from typing import Final

from agentcgroup.cgroup import Cgroup, Events, Limits, Usage
from agentcgroup.cgroup.division import takes_no_process
from agentcgroup.containment.leftovers import leave_to_agent, terminate
from agentcgroup.containment.owner import NoWorker, Owner
from agentcgroup.containment.process_group import ProcessGroup
from agentcgroup.containment.process_tree import ProcessTree
from agentcgroup.containment.subtree import Subtree, move, new_leaf
from agentcgroup.containment.tree import Branch
from agentcgroup.spawn.placement import starting
from agentcgroup.threads import Lock, get_ident

__all__ = ["CallCgroup"]

logger = logging.getLogger("agentcgroup")

#: Seconds that the tool's own thread waits for killed processes to be gone.
_KILL_WAIT: Final = 2.0
#: Times that a cgroup is looked for again, where one above it is gone.
_TRIES: Final = 4
#: Errors of a cgroup that is gone: another program has removed it, or the call that it belongs to
#: has just ended.
_GONE: Final = (errno.ENOENT, errno.ENODEV, errno.EBADF)
#: Number of the call's last children whose pids are kept for the monitor.
_STARTED: Final = 1024


class CallCgroup(Subtree):
    """Holds the processes of one call.

    Attributes:
        agent_branch: the agent's branch that the cgroup came from; None in a call inside another
            call of the same agent.
        started: pids of the children that were born in the call, the last ones.
        lock: guards births, the move to a leaf, and the hand-over to the next call.
    """

    __slots__ = (
        *("agent_branch", "lock", "started"),
        *("_fresh", "_limits", "_owner", "_source", "_spawning"),
    )

    def __init__(self, owner: Owner, limits: Limits) -> None:
        super().__init__()
        self._owner = owner
        self._limits = limits
        self.lock = Lock()
        self._spawning: set[int] = set()  # idents of the threads that start a child
        self._fresh = True  # no child was started yet
        self._source: Branch | None = None  # the branch that the cgroup came from
        self.agent_branch: Branch | None = None
        self.started: deque[int] = deque(maxlen=_STARTED)

    # -- births -------------------------------------------------------------------------------

    def begin_spawn(self, failed: OSError | None) -> int | None:
        """Return the directory fd for the next child; see `scope.SpawnTarget`."""
        owner = self._owner
        with self.lock:
            if owner.outlived:
                # A thread that outlived its call starts a process: the process joins the run.
                self._spawning.add(get_ident())
                return owner.background_fd()
            owner.refuse_if_over()
            if failed is not None:
                self.drop_leaf(failed)
            leaf = self.ensure_leaf()
            self._spawning.add(get_ident())
            return leaf.fd

    def end_spawn(self, pid: int | None) -> None:
        """Take note that a spawn is done; see `scope.SpawnTarget`."""
        thread = get_ident()
        with self.lock:
            if thread not in self._spawning and pid is None:
                return  # `begin_spawn` has raised
            self._spawning.discard(thread)
            first, self._fresh = self._fresh, False
        if pid is not None:
            self.note_child(pid)
        if first and self.agent_branch is not None and self._owner.calls_follow():
            self._owner.prepare(self.agent_branch)
        if self._owner.stopped is not None:
            self.kill()  # the child was born between that kill and now

    def note_child(self, pid: int) -> None:
        """Take note of the pid of a child; see `scope.SpawnTarget`."""
        self.started.append(pid)
        if self.leaf is not None:
            self.leaf.note_child(pid)

    def adopt(self, pid: int) -> None:
        """Bring in a process of the call that was born outside of the cgroup.

        Raises:
            LimitExceeded: the call is over.
            OSError: the process cannot be moved.
        """
        failed: OSError | None = None
        while True:
            self.begin_spawn(failed)
            try:
                if self.cgroup is not None and self.leaf is not None:
                    with contextlib.suppress(ProcessLookupError):
                        self.leaf.join(pid)
            except OSError as error:
                if failed is not None:
                    raise
                failed = error
            else:
                return
            finally:
                self.end_spawn(None)  # `started` has only what was born inside

    def branch(self) -> Branch | None:
        """Return the branch for calls inside this one; None where there are no cgroups."""
        with self.lock:
            if self._branch is None:
                if self.cgroup is None:
                    self._take_cgroup()
                if self.cgroup is None:
                    return None
                if self.leaf is self.cgroup:
                    self.leaf = leaf = new_leaf(self.cgroup)
                    move(self.cgroup, leaf)
                assert self._source is not None
                self._branch = Branch(self.cgroup, self._source.options)
            return self._branch

    def ensure_leaf(self, take: Callable[[Branch], Cgroup] | None = None) -> ProcessGroup:
        """Return what holds the children, made at its first use; `lock` is held.

        `take` replaces the branch's own way to a cgroup, which is a spare or a new one.
        """
        if take is not None and isinstance(self.leaf, Cgroup) and takes_no_process(self.leaf.fd):
            self.drop_leaf(None)  # the fork server would report it too late for a second try
        if self.leaf is None:
            if self._branch is not None:
                self.leaf = new_leaf(self._branch.cgroup)
            else:
                self._take_cgroup(take)
                self.leaf = self.cgroup if self.cgroup is not None else ProcessTree()
        return self.leaf

    def _take_cgroup(self, take: Callable[[Branch], Cgroup] | None = None) -> None:
        """Take a cgroup below the agent, or below the call this one runs in."""
        owner = self._owner
        for tries_left in reversed(range(_TRIES)):
            owner.before_cgroup()
            try:
                source, is_agent = owner.locate()
                if source is None:
                    return
                self._source = source
                if is_agent:
                    self.agent_branch = source
                self.cgroup = take(source) if take is not None else source.take(self._limits)
                self.path, self.unmet = self.cgroup.path, self.cgroup.unmet
                owner.contained(self.cgroup)
            except NoWorker:
                raise
            except OSError as error:
                if error.errno in _GONE and tries_left:
                    branch, self.agent_branch = self.agent_branch, None
                    if branch is not None:
                        branch.leave()
                    owner.forget_removed()
                    continue
                owner.uncontained(error)
            return

    # -- deaths ---------------------------------------------------------------------------------

    def kill(self) -> None:
        """Send SIGKILL to every process in the cgroup."""
        with self.lock:  # not during `hand_over`: the next call's processes are not this call's
            group = self.group
            if group is None:
                return
            self._owner.before_kill(group.kill)
            group.kill()

    def ends_at_once(self) -> bool:
        """Return whether `end` has nothing to wait for: no process is left, or none that counts."""
        group = self.group
        return group is None or (self.cgroup is not None and self._only_idle(group))

    def end(self, *, over: bool, keep: bool, linger: float, grace: float) -> bool:
        """Bring the processes to an end.

        Args:
            over: the call was stopped or cancelled, so that there is nothing to wait for.
            keep: processes that still run may go on, in the agent's background cgroup.
            linger: seconds in which processes may end by themselves.
            grace: seconds in which those that have not are to end after SIGTERM.

        Returns:
            Whether processes outlived the tool and were killed.
        """
        helpers = self._owner.release_helpers()
        with self.lock:  # a spawn that another thread has begun gets its cgroup first
            group = self.group
        if group is None:
            return False
        if not over:
            if helpers:
                leave_to_agent(self._owner, group, helpers)
            if self._only_idle(group) or group.wait_empty(linger):
                return False
            if keep and self._keep():
                return False
            if self._owner.keep_maintenance(group) and self._only_idle(group):
                return False
            self._owner.note_leftovers(group.all_procs())
            if grace:
                terminate(group)
                if group.wait_empty(grace):
                    return True
        group.kill()
        if not group.wait_empty(_KILL_WAIT):
            logger.warning("agentcgroup: killed processes of a call are still there: %s", group)
        return not over

    def hand_over(self, read_usage: Callable[[], Usage], events: Events) -> bool:
        """Leave the cgroup, and the one worker in it, to the next call; `lock` is not held.

        Only where nothing else lives in the cgroup. Afterwards `usage` comes from `read_usage` and
        its counts from `events`.
        """
        with self.lock:
            group = self.cgroup
            if group is None or self._branch is not None or self._owner.stopped is not None:
                return False
            if self.is_divided():
                return False
            if not self._only_idle(group):
                return False
            self.hand_on(read_usage, events)
            return True

    def _only_idle(self, group: ProcessGroup) -> bool:
        """Return whether nothing lives in `group` but workers that have answered."""
        idle = self._owner.idle_tenants()
        if idle is None:
            return not group.populated()
        return self._branch is None and idle.issuperset(group.all_procs())

    def spawning(self) -> bool:
        """Return whether a thread starts a child here, and so uses the descriptor of the cgroup."""
        return bool(self._spawning) and starting(self._spawning.copy(), globals())

    def remove(self) -> None:
        """Remove the cgroup, into which nothing is `spawning`; every process in it dies.

        Raises:
            OSError: EBUSY when processes do not die.
        """
        self.discard()

    def _keep(self) -> bool:
        """Leave the processes to the agent; return False where the call has no cgroup of it."""
        agent, cgroup = self.agent_branch, self.cgroup
        if agent is None or cgroup is None or self.leaf is None:
            return False
        self._owner.released(cgroup)
        if self.is_divided():
            # What divided it relies on its cgroups: they stay as they are, with their limits.
            usage, events = cgroup.usage(), cgroup.events()
            with self.lock:
                self.hand_on(lambda: usage, events)
            agent.keep(cgroup)
        else:
            move(self.leaf, agent.background())
        return True
