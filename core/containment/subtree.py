"""The cgroups of one call: its own, our leaves below it, and those that its tool makes.

A tool may divide the cgroup that it runs in, as container engines and systemd do: it moves its
processes into cgroups of its own making and turns controllers on for them. The call's cgroup then
takes no process, so that its next child is born in a leaf of ours beside those of the tool. All of
them stay below the call's cgroup, and end and go with it.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Callable
from typing import Final

from agentcgroup.cgroup import Cgroup, Events, Usage
from agentcgroup.cgroup.division import has_children, takes_no_process
from agentcgroup.containment.process_group import ProcessGroup
from agentcgroup.containment.tree import Branch, discard

__all__ = ["Subtree", "move", "new_leaf"]

logger = logging.getLogger("agentcgroup")

#: Name of the first leaf for a call's own processes.
_LEAF: Final = "self"


class Subtree:
    """The cgroup of one call and what is below it, or the call's process tree.

    Attributes:
        cgroup: None before the first child, without cgroups, and after it went to another owner.
        leaf: what the children are born in: the cgroup itself, a leaf below it, or a process tree.
        unmet: the limits of the cgroup that do not hold.
        path: the directory of the cgroup, also when the cgroup is gone; None when there was none.
    """

    __slots__ = ("_branch", "_dropped", "_left", "cgroup", "leaf", "path", "unmet")

    def __init__(self) -> None:
        self.cgroup: Cgroup | None = None
        self.leaf: ProcessGroup | None = None
        self.path: str | None = None
        self.unmet: tuple[str, ...] = ()
        self._branch: Branch | None = None  # what holds the cgroups of calls inside this one
        # Leaves that take no child any more. Another thread may be about to use the descriptor of
        # one, so each lives as long as this object.
        self._dropped: tuple[ProcessGroup | None, ...] = ()
        # After it went to another owner: how to read what was used, and what the kernel counted.
        self._left: tuple[Callable[[], Usage], Events] | None = None

    @property
    def group(self) -> ProcessGroup | None:
        """All processes, those of the calls inside included."""
        return self.cgroup if self.cgroup is not None else self.leaf

    def is_divided(self) -> bool:
        """Return whether the tool has made cgroups below the call's, as far as can be told.

        Where calls run inside this one, the cgroups below are those of the calls, too.
        """
        return self._branch is None and self.cgroup is not None and has_children(self.cgroup.fd)

    def drop_leaf(self, failed: OSError | None) -> None:
        """Have another leaf for the next child, because this one takes none; `failed` says why."""
        cgroup = self.cgroup
        if cgroup is not None and cgroup.exists():
            # The tool has divided it, or a leaf below it. Another thread may have come here first.
            if not _takes_children(self.leaf, cgroup):
                self._dropped = (*self._dropped, self.leaf)
                self.leaf = new_leaf(cgroup)
        elif self._branch is None:
            # Another program removed the cgroup with all that was in it; the call goes on.
            logger.warning("agentcgroup: the cgroup of a call is gone: %s", failed)
            self.forget()

    def forget_removed(self) -> None:
        """Forget a cgroup that is gone, for the next use to make it anew.

        Another program has removed it, or a call around this one has ended.
        """
        if self.cgroup is not None and not self.cgroup.exists():
            self.forget()

    def forget(self) -> None:
        """Have another cgroup for the next child: this one is gone, with all that was in it."""
        self._dropped = (*self._dropped, self.leaf)
        self.cgroup = self.leaf = self._branch = None

    def hand_on(self, read_usage: Callable[[], Usage], events: Events) -> None:
        """Take note that the cgroup has another owner now.

        Afterwards `usage` comes from `read_usage` and the counts from `events`.
        """
        self._left = read_usage, events
        self.cgroup = self.leaf = None

    def discard(self) -> None:
        """Kill every process, and remove every cgroup.

        Raises:
            OSError: EBUSY when processes do not die.
        """
        if self._branch is not None:
            if self.leaf is not None:
                discard(self.leaf)
            self._branch.remove()
        elif self.cgroup is not None:
            discard(self.cgroup)

    # -- what the kernel counted ----------------------------------------------------------------

    def pids(self) -> list[int]:
        """Return the processes of the call itself, without those of the calls inside it."""
        group = self.leaf if self._branch is not None else self.group
        return [] if group is None else group.all_procs()

    def usage(self) -> Usage:
        """Return what the processes have used, those of the calls inside included."""
        if self._left is not None:
            return self._left[0]()
        group = self.group
        return group.usage() if group is not None else Usage()

    def counted(self) -> Events:
        """Return what the kernel has counted in the cgroup, the calls inside included."""
        if self._left is not None:
            return self._left[1]
        return Events() if self.cgroup is None else self.cgroup.events()

    def events(self) -> Events:
        """Return what befell the call's own processes, not those of the calls inside it."""
        group = self.group
        if group is None:
            return Events()
        events = group.events()
        if self._branch is None or not events.oom_kill or events.oom_local:
            return events
        return Events() if self.leaf is None else self.leaf.events()


def new_leaf(above: Cgroup) -> Cgroup:
    """Make a leaf for the processes of a call, below its cgroup.

    Raises:
        OSError: it cannot be made.
    """
    for name in itertools.chain([_LEAF], (f"{_LEAF}-{number}" for number in itertools.count(2))):
        # One that is there is an earlier leaf, which the tool has divided, or one of the tool.
        with contextlib.suppress(FileExistsError):
            return above.child(name)
    raise AssertionError("the names do not end")


def move(source: ProcessGroup, target: Cgroup) -> None:
    """Move every process right in `source`, those included that it forks meanwhile."""
    for _ in range(100):
        pids = source.procs()
        if not pids:
            return
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                target.join(pid)


def _takes_children(leaf: ProcessGroup | None, above: Cgroup) -> bool:
    """Return whether `leaf` is a cgroup below `above` in which a child can be born."""
    if not isinstance(leaf, Cgroup) or leaf is above:
        return False
    return leaf.exists() and not takes_no_process(leaf.fd)
