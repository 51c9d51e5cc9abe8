"""Slots: the numbers by which the BPF programs know the watched calls.

The process that asks for a call to be watched may hold slots of its own, so that it need not wait
for the process that holds the programs: see `AttachedPrograms.reserve` and `Announcer`.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Sequence

from agentcgroup.bpf import bpf_syscall, layout
from agentcgroup.errors import BpfUnavailable

__all__ = ["Announcer", "Slots"]


class Slots:
    """Gives out slots; one that is given back is used again as late as possible."""

    def __init__(self, free: Iterable[int] = range(layout.MAX_CALLS, 2 * layout.MAX_CALLS)) -> None:
        self._free = deque(free)

    def take(self) -> int:
        """Return a slot.

        Raises:
            BpfUnavailable: all slots are taken.
        """
        try:
            return self._free.popleft()
        except IndexError:
            raise BpfUnavailable(
                f"{layout.MAX_CALLS} calls are watched already, which is the most."
            ) from None

    def give_back(self, slot: int) -> None:
        """Take a slot back. Its place in the array is given out again under another number."""
        following = slot + layout.MAX_CALLS
        first = layout.MAX_CALLS + slot % layout.MAX_CALLS
        self._free.append(following if following < 1 << 32 else first)


class Announcer:
    """Has calls watched from another process than the one that holds the programs.

    The holder has to follow each call too (`AttachedPrograms.adopt`, `AttachedPrograms.remove`),
    but the programs count already before it does. Several threads may use an announcer at once.
    """

    def __init__(self, slots: Sequence[int], counters_fd: int, cgroups_fd: int) -> None:
        """Take reserved slots and the maps.

        Args:
            slots: from `AttachedPrograms.reserve`.
            counters_fd: `AttachedPrograms.counters_fd`, or a copy; not needed afterwards.
            cgroups_fd: `AttachedPrograms.cgroups_fd`, or a copy, which `close` closes.
        """
        self._slots = Slots(slots)
        self._calls = bpf_syscall.map_shared(counters_fd, layout.CALLS_BYTES, writable=True)
        self._cgroups = cgroups_fd

    def add(self, cgroup_id: int) -> int | None:
        """Watch a cgroup, as `AttachedPrograms.add`; returns its slot, None when none is left.

        Raises:
            OSError: the kernel refuses.
        """
        try:
            slot = self._slots.take()
        except BpfUnavailable:
            return None
        layout.begin_call(self._calls, slot)
        try:
            bpf_syscall.update(self._cgroups, cgroup_id, slot, key_size=8)
        except OSError:
            layout.end_call(self._calls, slot)
            self._slots.give_back(slot)
            raise
        return slot

    def give_back(self, slot: int) -> None:
        """Take a slot back that the holder of the programs has removed."""
        self._slots.give_back(slot)

    def close(self) -> None:
        """Watch no more calls; twice is no error."""
        cgroups, self._cgroups = self._cgroups, -1
        if cgroups >= 0:
            os.close(cgroups)
