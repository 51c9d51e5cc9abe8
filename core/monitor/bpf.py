"""The BPF programs of `agentcgroup.bpf` as a source.

Theory of operation: every call's cgroup has a slot of its own, which is what its events and
counters go by. The helper lends the host slots and the kernel's map of cgroups, and the host itself
enters a cgroup there as it is made, before anything can be born in it.

The run's cgroup has a slot too, which the kernel hands down to whatever is made below. So a cgroup
for which the host has none left, or which it may not enter, is followed as well, once the helper
has heard of it: what was born before is seen under the run's slot and told by the id of the cgroup
that it is in. The counters lack it, and are not given.

A thread of the host that is in a call lends its doings to the slot of its seat (`board`): the
kernel then knows a child that it makes, wherever that is born. The host itself switches such a slot
on as a call begins in the thread, and off as it ends, in the memory that it shares with the kernel.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal

from agentcgroup.bpf import Announcer, BpfUnavailable, Counters, Event, bpf_syscall, layout
from agentcgroup.bpf import Monitor as Programs
from agentcgroup.bpf.programs import PROGRAMS, absent_counters
from agentcgroup.monitor.source import Raw, Unavailable

__all__ = ["Bpf", "Lent"]

logger = logging.getLogger("agentcgroup")

#: Threads of the host that can be in calls at once, as far as the kernel knows.
_SEATS: Final = 512
#: Slots that the host gives to cgroups by itself: calls at once, and cgroups made ahead of need.
_HOMES: Final = 2048
#: Cgroups of their slots: ids that no cgroup has (kernfs counts them from 1).
_NOWHERE: Final = 1 << 63
#: Words of one call's counters; the first one is its slot, 0 while nothing counts there.
_WORDS: Final = layout.CALL.size // 8
_CHARGED: Final = 1 + layout.COUNTERS.index("memory_charged_bytes")

_KINDS: Final[Mapping[str, Literal["fork", "exec", "exit", "oom", "outside", "moved"]]] = {
    "fork": "fork",
    "exec": "exec",
    "exit": "exit",
    "oom": "oom",
    "escape": "outside",
    "leave": "moved",
}


class Bpf:
    """The programs, attached."""

    name = "libbpf"
    sweeps = False

    def __init__(self, detail: str, *, stop: bool) -> None:
        """Load and attach them; with `stop` what is born outside stands still.

        Raises:
            Unavailable: nothing can run here.
        """
        try:
            self._programs = Programs.open(
                detail="full" if detail == "full" else "default", stop=stop
            )
        except BpfUnavailable as error:
            raise Unavailable(error.reason, error.fix) from error
        self.fd = self._programs.fd
        self.missing: Mapping[str, str] = _missing(self._programs.programs, detail)
        self._slots: dict[int, int] = {}  # by cgroup
        self._cgroups: dict[int, int] = {}  # by slot
        self._seats = {self._programs.add(_NOWHERE + seat): seat for seat in range(_SEATS)}
        self._homes = self._programs.lend(_HOMES)

    def read(self) -> Iterator[Raw]:
        """Return what has happened since the last time."""
        return (
            self._translated(event, kind)
            for event in self._programs.poll(0)
            if (kind := _KINDS.get(event.kind)) is not None
        )

    def add(self, cgroup: int, slot: int = 0) -> None:
        """Follow a cgroup and all that is made below it from now on."""
        try:
            if slot:
                self._programs.adopt(slot, cgroup)
            else:
                slot = self._programs.add(cgroup)
        except BpfUnavailable:
            return  # of more calls at once nothing is known
        self._slots[cgroup] = slot
        self._cgroups[slot] = cgroup

    def remove(self, cgroup: int) -> None:
        """Stop following it."""
        slot = self._slots.pop(cgroup, None)
        if slot is not None:
            del self._cgroups[slot]
            self._programs.remove(slot)

    def enroll(self, run: str) -> None:
        """Follow the run's cgroup, and those below that are there already."""
        top = os.stat(run).st_ino
        self.add(top)
        slot = self._slots.get(top)
        if slot is None:
            return
        for folder, below, _ in os.walk(run):
            for name in below:
                # One that is removed meanwhile, or more than can be followed: of it we do not tell.
                with contextlib.suppress(OSError):
                    cgroup = os.stat(os.path.join(folder, name)).st_ino
                    if cgroup not in self._slots:
                        # The host may have given it a slot meanwhile, which it keeps.
                        self._programs.add_child(slot, cgroup)
        self._programs.watch_network(run)

    def counters(self, cgroup: int, *, living: bool) -> Mapping[str, int | None]:
        """Return what the kernel has counted; nothing for a cgroup that is not followed."""
        slot = self._slots.get(cgroup)
        found = None if slot is None else self._programs.read(slot, living=living)
        return {} if found is None else _figures(found)

    def lent(self) -> tuple[Sequence[int], Sequence[int]]:
        """Return the slots of seats and those for cgroups, and the maps, all for `Lent`."""
        programs = self._programs
        fds = [programs.counters_fd, programs.threads_fd, programs.cgroups_fd]
        return [*self._seats, *self._homes], fds

    def close(self) -> None:
        """Take the programs off."""
        self._programs.close()

    def _translated(
        self, event: Event, kind: Literal["fork", "exec", "exit", "oom", "outside", "moved"]
    ) -> Raw:
        code = 0 if event.exit_code is None else event.exit_code << 8
        return Raw(
            kind,
            event.time_ns / 1e9,
            event.pid,
            parent=event.ppid,
            seat=self._seats.get(event.slot),
            status=event.signal or code,
            program=None if event.filename is None else _text(event.filename),
            home=self._cgroups.get(event.slot, 0),
            cgroup=event.cgroup_id,
            stopped=event.stopped,
        )


class Lent:
    """The host's side: slots of its threads and of its cgroups, in memory shared with the kernel.

    It is the `board.Switches`, too.
    """

    def __init__(self, slots: Sequence[int], fds: Sequence[int], *, charges: bool) -> None:
        """Take over what `Bpf.lent` returned; all switches are off then.

        Args:
            slots: of seats and for cgroups.
            fds: of the maps.
            charges: the kernel counts what memory is charged to a thread.
        """
        self._charges = charges
        self._warned = False
        calls, self._threads, cgroups = fds
        self._announcer = Announcer(slots[_SEATS:], calls, cgroups)
        memory = bpf_syscall.map_shared(calls, layout.CALLS_BYTES, writable=True)
        os.close(calls)
        self._words = memoryview(memory).cast("Q")
        self._slots = [(slot % layout.MAX_CALLS * _WORDS, slot) for slot in slots[:_SEATS]]
        self._homes: dict[int, int] = {}
        for at, _ in self._slots:
            self._words[at] = 0

    def follow(self, cgroup: int) -> int:
        """Have what will be born in a cgroup counted for it; returns its slot, 0 for none."""
        try:
            slot = self._announcer.add(cgroup)
        except OSError:  # no rights any more, or closed
            return 0
        if slot is None:
            return 0
        self._homes[cgroup] = slot
        return slot

    def forget(self, cgroup: int) -> None:
        """Use the slot of a cgroup again, which the helper has stopped following."""
        slot = self._homes.pop(cgroup, None)
        if slot is not None:
            self._announcer.give_back(slot)

    def lend(self, seat: int, thread: int) -> None:
        """Make a slot that of a thread."""
        if seat < len(self._slots) and self._threads >= 0:
            try:
                bpf_syscall.update(self._threads, thread, self._slots[seat][1])
            except OSError as error:
                self._warn(error)

    def take_back(self, seat: int, thread: int) -> None:
        """The thread has ended."""
        if seat < len(self._slots) and self._threads >= 0:
            with contextlib.suppress(OSError):  # no rights any more, or closed
                bpf_syscall.delete(self._threads, thread)

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "agentcgroup: threads that come now have no escape net, since bpf(2) is refused "
                "(%s); fix: begin calls in them before the process gives up its rights",
                error,
            )

    def switch(self, seat: int, on: bool) -> None:
        """Let the kernel take what the thread does for a call's, or for nobody's."""
        if seat < len(self._slots):
            at, slot = self._slots[seat]
            self._words[at] = slot if on else 0

    def charged(self, seat: int) -> int | None:
        """Return the bytes of memory charged to a thread in calls so far; None: not counted."""
        if not self._charges or seat >= len(self._slots):
            return None
        return self._words[self._slots[seat][0] + _CHARGED]

    def close(self) -> None:
        """Close the descriptors; the memory lives on while there are seats."""
        threads, self._threads = self._threads, -1
        os.close(threads)
        self._announcer.close()


def _missing(programs: Mapping[str, str | None], detail: str) -> dict[str, str]:
    """Return the counters that nothing fills although they were asked for, and why."""
    absent = absent_counters([name for name, why in programs.items() if why is None])
    return {
        counter: why
        for name, why in programs.items()
        if why is not None and (detail == "full" or not PROGRAMS[name].full)
        for counter in PROGRAMS[name].fills
        # Packets are counted once there is a cgroup to count them at.
        if counter in absent and PROGRAMS[name].hook != "cgroup_skb"
    }


def _text(name: str) -> str:
    """Return a name as text that every reader of a record can take."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _figures(counters: Counters) -> dict[str, int | None]:
    return {
        field.name: getattr(counters, field.name)
        for field in dataclasses.fields(counters)
        if field.name != "run_queue_waits"
    }
