"""The ledger of the helper: which process belongs to which call.

A process is a member of the entry in whose cgroup it was born, or in which its parent is a member.
Whatever the process does to its session, its parent or its cgroup afterwards, it stays a member
until it has exited. So the helper recognises a process that leaves its call's cgroup as an escape,
and a child that was never in the cgroup too.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final

from agentcgroup.monitor.call_entry import CallEntry, program_of
from agentcgroup.monitor.source import KernelEvent

__all__ = ["Ledger"]

#: Children of the app that are kept while it is not known which call they belong to.
_UNATTRIBUTED: Final = 1024


class Ledger:
    """The entries of all calls, and their members."""

    def __init__(
        self,
        app: int,
        run: str,
        where: Callable[[int], str | None],
        *,
        on_unknown: Callable[[], None],
        on_outside: Callable[[KernelEvent], CallEntry | None],
    ) -> None:
        """Begin without entries.

        Args:
            app: pid of the app's process.
            run: path of the run's cgroup; only the app places processes there.
            where: returns the cgroup of a pid; see `CgroupLocator.of_newborn`.
            on_unknown: called when a child is seen in a cgroup without an entry, to `add` the
                cgroups that were announced meanwhile.
            on_outside: called with a fork of the app whose child is outside of the run; returns
                the entry that the child belongs to, None where it is no call's.
        """
        self._app = app
        self._run = run + "/"
        self.where = where
        self._on_unknown = on_unknown
        self._on_outside = on_outside
        self._entries: dict[int, CallEntry] = {}
        self._by_path: dict[str, CallEntry] = {}
        self._members: dict[int, CallEntry] = {}
        self._unattributed: OrderedDict[int, CallEntry] = OrderedDict()
        #: Processes in the run and in no call's cgroup, such as a fork server.
        self._of_run: set[int] = set()

    def __iter__(self) -> Iterator[CallEntry]:
        return iter(tuple(self._entries.values()))

    def add(self, cgroup: int, path: str, present: Iterable[int]) -> CallEntry:
        """Add an entry for a cgroup; `present` are processes that are in it already."""
        entry = CallEntry(cgroup, path)
        self._entries[cgroup] = self._by_path[path] = entry
        for pid in present:
            entry.note_present(pid)
            self._members[pid] = entry
        return entry

    def remove(
        self, cgroup: int, started: Sequence[int], counters: Mapping[str, int | None]
    ) -> CallEntry | None:
        """Remove an entry and return it; members that live belong to no call afterwards.

        Args:
            cgroup: its id.
            started: processes that the app has placed in it.
            counters: what the source has counted for this cgroup alone.
        """
        entry = self._entries.pop(cgroup, None)
        if entry is None:
            return None
        entry.count(counters)
        for pid in started:
            self.attribute(pid, entry)
        entry.note_placed(started)
        self._by_path.pop(entry.path, None)
        for pid in entry.members:
            self._members.pop(pid, None)
        above = self.at(os.path.dirname(entry.path))
        if above is not None:
            above.absorb(entry)
        return entry

    def get(self, cgroup: int) -> CallEntry | None:
        """Return the entry of a cgroup, by id."""
        return self._entries.get(cgroup)

    def at(self, path: str) -> CallEntry | None:
        """Return the entry of a cgroup or of the nearest one above it, by path."""
        while path not in self._by_path:
            above = os.path.dirname(path)
            if above == path:
                return None
            path = above
        return self._by_path[path]

    def of(self, pid: int) -> CallEntry | None:
        """Return the entry that a process is a member of."""
        return self._members.get(pid)

    @property
    def entries(self) -> Collection[int]:
        """The ids of all cgroups that have an entry."""
        return self._entries.keys()

    @property
    def members(self) -> Collection[int]:
        """The processes of all entries."""
        return self._members.keys()

    def take(self, event: KernelEvent) -> CallEntry | None:
        """Write one event into its entry; returns the entry, None where it is no call's."""
        if event.kind == "exit":
            self._of_run.discard(event.pid)
        if event.kind == "fork":
            return self._fork(event)
        if event.kind == "lost":
            for each in self._entries.values():
                each.whole = False
            return None
        entry = self.of(event.pid)
        if entry is None:
            return None
        if event.kind == "exec":
            entry.execute(event.pid, event.program or program_of(event.pid))
        elif event.kind == "exit":
            entry.end(event.pid, event.status)
            del self._members[event.pid]
        return entry

    def adopt(self, entry: CallEntry, pid: int, parent: int = 0) -> None:
        """Make a process a member of an entry."""
        entry.begin(pid, parent)
        self._members[pid] = entry

    def add_unattributed(self, pid: int) -> CallEntry:
        """Add an entry for a child of the app of which it is not known which call it belongs to."""
        entry = self._unattributed[pid] = CallEntry(0, "")
        if len(self._unattributed) > _UNATTRIBUTED:
            self._unattributed.popitem(last=False)
        return entry

    def attribute(self, pid: int, entry: CallEntry | None) -> list[int] | None:
        """Attribute an unattributed child, with its descendants, to an entry.

        Returns:
            Those of them that live; None when `pid` is not unattributed. With None for `entry`
            they stay unattributed, and so does what they start yet.
        """
        known = self._unattributed.get(pid)
        if known is None:
            return None
        living = [*known.members]
        if entry is not None:
            del self._unattributed[pid]
            entry.absorb(known)
            entry.members |= known.members
            entry.outside |= known.outside
            for member in living:
                self._members[member] = entry
        return living

    def _fork(self, event: KernelEvent) -> CallEntry | None:
        entry = self.entry_of_newborn(event)
        ours = event.parent == self._app or event.parent in self._of_run
        if entry is None and event.entry is None and ours:
            entry = self._entry_of_child(event)
        if entry is not None:
            self.adopt(entry, event.pid, event.parent)
        return entry

    def entry_of_newborn(self, event: KernelEvent) -> CallEntry | None:
        """Return the entry of a newborn, as far as the source or the newborn's parent show it."""
        reported = self._entries.get(event.entry or 0)
        if event.cgroup is None:
            return reported or self._members.get(event.parent)
        if event.cgroup not in self._entries:
            self._on_unknown()
        entry = self._entries.get(event.cgroup) or reported or self._members.get(event.parent)
        if entry is not None and entry is not reported:
            # Announced too late: the source has counted the newborn for a cgroup above.
            entry.counted = False
        return entry

    def in_run(self, path: str) -> bool:
        """Return whether a cgroup is below the run's; only the app places processes there."""
        return path.startswith(self._run)

    def is_elsewhere(self, pid: int) -> bool:
        """Return whether a process is neither in the run nor in the app's cgroup, as forks are."""
        path = self.where(pid)
        return path is not None and path != self.where(self._app) and not self.in_run(path)

    def _entry_of_child(self, event: KernelEvent) -> CallEntry | None:
        """Return the entry that a child of the app was born in, None where it is no call's."""
        path = self.where(event.pid)
        if path is None:
            # The child has ended; the app names it in `started` at the end of its call.
            return self.add_unattributed(event.pid)
        entry = self.at(path)
        if entry is None and self.in_run(path):
            self._on_unknown()
            entry = self.at(path)
            if entry is None:
                self._of_run.add(event.pid)  # it may start processes for calls, as the app does
            return entry
        return entry if entry is not None else self._on_outside(event)
