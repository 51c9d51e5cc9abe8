"""The BPF programs of `agentcgroup.bpf` as a source.

Every call's cgroup has a counter slot of its own, by which the kernel counts and reports. The
helper gives the app counter slots and the kernel's map of cgroups, and the app itself enters a
cgroup there when it makes the cgroup, before anything can be born in it.

The run's cgroup has a counter slot too, which the kernel passes on to every cgroup that is made
below. So the helper also follows a cgroup for which the app has no slot left, or which the app may
not enter, once the app has announced it: the kernel reports what was born before under the run's
slot, with the id of the cgroup it is in. The slot's counters lack it, and the record has none.

Each thread slot of the app (`thread_board`) has a counter slot as well. While a thread is in a
call, the kernel attributes to that slot what the thread does, so the source reports a child that
the thread starts, wherever the child is born. The app itself switches the slot on when a call
begins in the thread and off when it ends, in memory that it shares with the kernel.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal

from agentcgroup.bpf import (
    Announcer,
    AttachedPrograms,
    BpfEvent,
    BpfUnavailable,
    Counters,
    bpf_syscall,
    layout,
)
from agentcgroup.bpf.programs import PROGRAMS, absent_counters
from agentcgroup.monitor.source import KernelEvent, Unavailable

__all__ = ["AppSlots", "Bpf"]

logger = logging.getLogger("agentcgroup")

#: Counter slots for threads of the app: threads that the kernel can attribute at once.
_FOR_THREADS: Final = 512
#: Counter slots that the app gives to cgroups by itself: of calls at once, and made ahead of need.
_FOR_CGROUPS: Final = 2048
#: First of the ids that stand for the cgroups of threads' slots: kernfs counts its ids from 1.
_NO_CGROUP: Final = 1 << 63
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
    """The programs, attached, as a `Source`."""

    name = "libbpf"
    needs_sweeps = False

    def __init__(self, detail: str, *, stop: bool) -> None:
        """Load and attach the programs.

        Args:
            detail: "default" or "full".
            stop: stop a process that is born outside, where the kernel can do that.

        Raises:
            Unavailable: the programs that are always needed cannot be loaded or attached.
        """
        try:
            self._programs = AttachedPrograms.open(
                detail="full" if detail == "full" else "default", stop=stop
            )
        except BpfUnavailable as error:
            raise Unavailable(error.reason, error.fix) from error
        self.fd = self._programs.fd
        self.missing: Mapping[str, str] = _missing(self._programs.programs, detail)
        self._slots: dict[int, int] = {}  # by cgroup
        self._cgroups: dict[int, int] = {}  # by slot
        self._for_threads = {
            self._programs.add(_NO_CGROUP + thread_slot): thread_slot
            for thread_slot in range(_FOR_THREADS)
        }
        self._for_cgroups = self._programs.reserve(_FOR_CGROUPS)

    def read(self) -> Iterator[KernelEvent]:
        """Return the events since the last call."""
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
            return  # more calls at once than can be watched: this one gets no figures
        self._slots[cgroup] = slot
        self._cgroups[slot] = cgroup

    def remove(self, cgroup: int) -> None:
        """Stop following a cgroup."""
        slot = self._slots.pop(cgroup, None)
        if slot is not None:
            del self._cgroups[slot]
            self._programs.remove(slot)

    def follow_run(self, run: str) -> None:
        """Follow the run's cgroup, and those below that are there already."""
        top = os.stat(run).st_ino
        self.add(top)
        slot = self._slots.get(top)
        if slot is None:
            return
        for folder, below, _ in os.walk(run):
            for name in below:
                # A cgroup that is removed meanwhile, or beyond the most that can be followed.
                with contextlib.suppress(OSError):
                    cgroup = os.stat(os.path.join(folder, name)).st_ino
                    if cgroup not in self._slots:
                        # The app may have given it a slot meanwhile, which it keeps.
                        self._programs.add_child(slot, cgroup)
        self._programs.watch_network(run)

    def counters(self, cgroup: int, *, living: bool) -> Mapping[str, int | None]:
        """Return the kernel's counters; none for a cgroup that is not followed."""
        slot = self._slots.get(cgroup)
        found = None if slot is None else self._programs.read(slot, living=living)
        return {} if found is None else _as_mapping(found)

    def for_app(self) -> tuple[Sequence[int], Sequence[int]]:
        """Return the counter slots for threads and for cgroups, and the maps, for `AppSlots`."""
        programs = self._programs
        fds = [programs.counters_fd, programs.threads_fd, programs.cgroups_fd]
        return [*self._for_threads, *self._for_cgroups], fds

    def close(self) -> None:
        """Detach the programs."""
        self._programs.close()

    def _translated(
        self, event: BpfEvent, kind: Literal["fork", "exec", "exit", "oom", "outside", "moved"]
    ) -> KernelEvent:
        code = 0 if event.exit_code is None else event.exit_code << 8
        return KernelEvent(
            kind,
            event.time_ns / 1e9,
            event.pid,
            parent=event.ppid,
            thread_slot=self._for_threads.get(event.slot),
            status=event.signal or code,
            program=None if event.filename is None else _text(event.filename),
            entry=self._cgroups.get(event.slot, 0),
            cgroup=event.cgroup_id,
            stopped=event.stopped,
        )


class AppSlots:
    """The counter slots of the app's threads and cgroups, in memory shared with the kernel.

    Implements `thread_board.KernelSwitches` and `announced.CounterSlots`.
    """

    def __init__(self, slots: Sequence[int], fds: Sequence[int], *, charges: bool) -> None:
        """Take what `Bpf.for_app` returned, and turn all switches off.

        Args:
            slots: those for threads, then those for cgroups.
            fds: of the maps; this object closes them.
            charges: the kernel counts what memory is charged to a thread.
        """
        self._charges = charges
        self._warned = False
        calls, self._threads, cgroups = fds
        self._announcer = Announcer(slots[_FOR_THREADS:], calls, cgroups)
        memory = bpf_syscall.map_shared(calls, layout.CALLS_BYTES, writable=True)
        os.close(calls)
        self._words = memoryview(memory).cast("Q")
        self._slots = [(slot % layout.MAX_CALLS * _WORDS, slot) for slot in slots[:_FOR_THREADS]]
        self._by_cgroup: dict[int, int] = {}
        for at, _ in self._slots:
            self._words[at] = 0

    def follow(self, cgroup: int) -> int:
        """Have the kernel count what is born in a cgroup; returns its counter slot, 0 for none."""
        try:
            slot = self._announcer.add(cgroup)
        except OSError:  # the process has given up its rights, or this is closed
            return 0
        if slot is None:
            return 0
        self._by_cgroup[cgroup] = slot
        return slot

    def forget(self, cgroup: int) -> None:
        """Use the counter slot of a cgroup again, which the helper has stopped following."""
        slot = self._by_cgroup.pop(cgroup, None)
        if slot is not None:
            self._announcer.give_back(slot)

    def assign(self, slot: int, thread: int) -> None:
        """Assign the counter slot of a thread slot to a thread."""
        if slot < len(self._slots) and self._threads >= 0:
            try:
                bpf_syscall.update(self._threads, thread, self._slots[slot][1])
            except OSError as error:
                self._warn(error)

    def unassign(self, slot: int, thread: int) -> None:
        """Undo `assign`: the thread has ended."""
        if slot < len(self._slots) and self._threads >= 0:
            with contextlib.suppress(OSError):  # as in `follow`
                bpf_syscall.delete(self._threads, thread)

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "agentcgroup: threads that come now have no escape net, since bpf(2) is refused "
                "(%s); fix: begin calls in them before the process gives up its rights",
                error,
            )

    def switch(self, slot: int, on: bool) -> None:
        """Have the kernel attribute what the thread does to its slot, or to nothing."""
        if slot < len(self._slots):
            at, counter_slot = self._slots[slot]
            self._words[at] = counter_slot if on else 0

    def charged(self, slot: int) -> int | None:
        """Return the bytes of memory charged to a thread in calls so far; None: not counted."""
        if not self._charges or slot >= len(self._slots):
            return None
        return self._words[self._slots[slot][0] + _CHARGED]

    def close(self) -> None:
        """Close the descriptors; the memory stays mapped while threads have slots."""
        threads, self._threads = self._threads, -1
        os.close(threads)
        self._announcer.close()


def _missing(programs: Mapping[str, str | None], detail: str) -> dict[str, str]:
    """Return the counters that were configured and that no program fills, and why."""
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
    """Return a path as text; bytes that are not UTF-8 are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _as_mapping(counters: Counters) -> dict[str, int | None]:
    return {
        field.name: getattr(counters, field.name)
        for field in dataclasses.fields(counters)
        if field.name != "run_queue_waits"
    }
