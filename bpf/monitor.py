"""The monitor: watches calls by their cgroups, counts what they do, tells what happens.

Whoever holds a `Monitor` holds the programs: when the process ends, however, the kernel takes
them off. Another process can read the counters through a descriptor of theirs, `CountersView`.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from agentcgroup.bpf import bpf_syscall, layout, loader
from agentcgroup.bpf.layout import Counters, Event
from agentcgroup.bpf.programs import PROGRAMS, Detail, absent_counters
from agentcgroup.bpf.ring import Ring
from agentcgroup.errors import BpfUnavailable

__all__ = ["Announcer", "CountersView", "Monitor", "Slots"]

_NO_NETWORK = "sits on no cgroup yet: watch_network() was not called"


class CountersView:
    """The counters of all calls, read from the kernel's memory without a system call.

    A slot that was never given out, or has been given back, reads as None.
    """

    def __init__(self, fd: int, programs: Mapping[str, str | None], features: int) -> None:
        """Map the counters.

        Args:
            fd: `Monitor.counters_fd`, or one that was received from its process.
            programs: `Monitor.programs`, so that what is not counted is told from zero.
            features: `Monitor.features`.
        """
        self._map = bpf_syscall.map_shared(fd, layout.CALLS_BYTES, writable=False)
        self._absent = _absent(programs, features)

    def read(self, slot: int) -> Counters | None:
        """Return what a call has used, None if the slot is not in use (any more)."""
        return layout.decode_call(self._map, slot, self._absent)

    def close(self) -> None:
        """Unmap them."""
        self._map.close()


def _absent(programs: Mapping[str, str | None], features: int) -> frozenset[str]:
    """Return which counters nothing fills."""
    absent = set(absent_counters([name for name, off in programs.items() if off is None]))
    if not features & layout.HAS_RUN_DELAY:
        absent |= {"run_delay_ns", "run_queue_waits"}
    if not features & layout.HAS_IO_BYTES:
        absent |= {"io_read_bytes", "io_write_bytes"}
    return frozenset(absent)


class Slots:
    """Gives out the numbers of calls; what is given back is used again as late as possible.

    The process that asks for a call to be watched may hold some, too, so that it need not wait for
    the answer: see `Monitor.lend` and `Announcer`.
    """

    def __init__(self, free: Iterable[int] = range(layout.MAX_CALLS, 2 * layout.MAX_CALLS)) -> None:
        self._free = deque(free)

    def take(self) -> int:
        """Return a slot.

        Raises:
            BpfUnavailable: all are taken.
        """
        try:
            return self._free.popleft()
        except IndexError:
            raise BpfUnavailable(
                f"{layout.MAX_CALLS} calls are watched already, which is the most."
            ) from None

    def give_back(self, slot: int) -> None:
        """Take a slot back. Its place comes again under another number."""
        following = slot + layout.MAX_CALLS
        first = layout.MAX_CALLS + slot % layout.MAX_CALLS
        self._free.append(following if following < 1 << 32 else first)


class Announcer:
    """Has calls watched from another process, without waiting for the monitor's.

    That has to be told (`Monitor.adopt`, `Monitor.remove`), but need not have heard yet when the
    first process is born. Other threads may use it meanwhile.
    """

    def __init__(self, slots: Sequence[int], counters_fd: int, cgroups_fd: int) -> None:
        """Take over what was lent.

        Args:
            slots: from `Monitor.lend`.
            counters_fd: `Monitor.counters_fd`, or a copy; not needed any more afterwards.
            cgroups_fd: `Monitor.cgroups_fd`, or a copy, which `close` closes.
        """
        self._slots = Slots(slots)
        self._calls = bpf_syscall.map_shared(counters_fd, layout.CALLS_BYTES, writable=True)
        self._cgroups = cgroups_fd

    def add(self, cgroup_id: int) -> int | None:
        """Watch a cgroup; as `Monitor.add`. Returns its slot, None when none is left.

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
        """Take a slot back that the monitor's process has removed."""
        self._slots.give_back(slot)

    def close(self) -> None:
        """Watch no more calls; twice is no error."""
        cgroups, self._cgroups = self._cgroups, -1
        if cgroups >= 0:
            os.close(cgroups)


@dataclass(slots=True)
class _Watched:
    """What was told the kernel of one call; `own`: its slot is from the monitor's own."""

    own: bool
    cgroups: set[int] = field(default_factory=set)
    threads: set[int] = field(default_factory=set)


class Monitor:
    """The programs, attached. Not for several threads at once.

    Attributes:
        counters_fd: the counters, for a `CountersView` in another process.
        cgroups_fd, threads_fd: what `add` and `add_thread` write, for a process that cannot wait
            until it is told us.
        features: what this kernel keeps of a task, for the same.
        stops: whether what is born outside its call's cgroup is stopped; older kernels need a
            trampoline for it.
        fd: readable when an event waits that somebody should act upon soon.
    """

    @classmethod
    def open(cls, *, detail: Detail = "default", stop: bool = True) -> Monitor:
        """Load and attach what this machine allows.

        Args:
            detail: "default" costs processes outside the watched calls nothing that can be
                measured; "full" adds the scheduler, charges, files and packets.
            stop: stop a process at birth that is born outside its call's cgroup, where that can
                be done (`stops`); whoever reads the event has to send it SIGCONT.

        Raises:
            BpfUnavailable: nothing can run here; it says why, and what would help.
        """
        with contextlib.closing(loader.load(detail)) as loaded:
            try:
                return cls(loaded, stop=stop)
            except OSError as error:
                raise BpfUnavailable(
                    f"The kernel does not attach our programs ({error})."
                ) from error

    def __init__(self, loaded: loader.LoadedMonitor, *, stop: bool) -> None:
        """Attach what was loaded; `open` is the usual way."""
        self._slots = Slots()
        self._watched: dict[int, _Watched] = {}
        self._off = dict(loaded.off)
        with contextlib.ExitStack() as stack:
            self._maps = {name: _kept(stack, fd) for name, fd in loaded.maps.items()}
            self.fd, self.counters_fd = self._maps["events"], self._maps["calls"]
            self.cgroups_fd, self.threads_fd = self._maps["cgroups"], self._maps["threads"]
            self._ring = stack.enter_context(contextlib.closing(Ring(self.fd, layout.RING_BYTES)))
            self._calls = stack.enter_context(
                bpf_syscall.map_shared(self.counters_fd, layout.CALLS_BYTES, writable=True)
            )
            self.features = self._introduce(loaded.programs["introduce"])
            self._living = self._attach(loaded.programs, stack)
            self.stops = stop and self._can_stop()
            self._set_stop(self.stops)
            self._packets = {
                name: _kept(stack, fd)
                for name, fd in loaded.programs.items()
                if PROGRAMS[name].hook == "cgroup_skb"
            }
            self._off.update(dict.fromkeys(self._packets, _NO_NETWORK))
            self._absent = _absent(self.programs, self.features)
            self._stack = stack.pop_all()

    @property
    def programs(self) -> Mapping[str, str | None]:
        """None for each program that is attached, else why it is off."""
        return MappingProxyType({name: self._off.get(name) for name in PROGRAMS})

    def add(self, cgroup_id: int, slot_hint: int | None = None) -> int:
        """Watch a cgroup, and all that will be made below it, as one call.

        What is in it already is counted from when it is first seen, so move in what matters
        afterwards, or call `read(slot, living=True)` once to see it.

        Args:
            cgroup_id: the inode number of its directory.
            slot_hint: a slot from `Slots` held by the caller, who then gives it back himself.

        Returns:
            The slot.

        Raises:
            BpfUnavailable: as many calls, or cgroups, are watched as can be.
            ValueError: the place of the slot is in use by who holds other `Slots`.
        """
        slot = self._slots.take() if slot_hint is None else slot_hint
        at = slot % layout.MAX_CALLS * layout.CALL.size
        if layout.SLOT.unpack_from(self._calls, at) != (0,):
            raise ValueError(f"slot {slot} is in use")
        layout.begin_call(self._calls, slot)
        self._watched[slot] = _Watched(own=slot_hint is None)
        self._watched[slot].cgroups.add(cgroup_id)
        try:
            bpf_syscall.update(self.cgroups_fd, cgroup_id, slot, key_size=8)
        except OSError as error:
            self.remove(slot)
            raise BpfUnavailable(f"The kernel does not watch another cgroup ({error}).") from error
        return slot

    def lend(self, count: int) -> list[int]:
        """Return slots that are an `Announcer`'s from now on."""
        return [self._slots.take() for _ in range(count)]

    def adopt(self, slot: int, cgroup_id: int) -> None:
        """Take over a call that an `Announcer` has begun to watch."""
        self._watched[slot] = _Watched(own=False, cgroups={cgroup_id})

    def add_child(self, slot: int, cgroup_id: int) -> None:
        """Watch one more cgroup as part of a call: those that were there before `add`.

        One that was announced as another call's stays that one's.

        Raises:
            KeyError: the slot is not in use.
            OSError: as many cgroups are watched as can be.
        """
        self._watched[slot].cgroups.add(cgroup_id)
        bpf_syscall.update(self.cgroups_fd, cgroup_id, slot, key_size=8, new=True)

    def remove(self, slot: int) -> None:
        """Watch a call no longer; processes that are left count nowhere. Twice is no error."""
        watched = self._watched.pop(slot, None)
        if watched is None:
            return
        layout.end_call(self._calls, slot)
        # What lies below them names a slot that is gone, and is forgotten as it is removed.
        for cgroup_id in watched.cgroups:
            bpf_syscall.delete(self.cgroups_fd, cgroup_id, key_size=8)
        for tid in watched.threads:
            bpf_syscall.delete(self.threads_fd, tid)
        if watched.own:
            self._slots.give_back(slot)

    def add_thread(self, slot: int, tid: int) -> None:
        """Count what a thread outside of the call's cgroup does as the call's from now on.

        That is: the memory it is charged, the files it opens, its stalls, the processes it starts.

        Raises:
            KeyError: the slot is not in use.
            OSError: as many threads are watched as can be.
        """
        self._watched[slot].threads.add(tid)
        bpf_syscall.update(self._maps["threads"], tid, slot)

    def remove_thread(self, tid: int) -> None:
        """End that; a thread that is not there is no error."""
        for watched in self._watched.values():
            watched.threads.discard(tid)
        bpf_syscall.delete(self._maps["threads"], tid)

    def watch_network(self, cgroup: str) -> None:
        """Count the packets of a cgroup's sockets, and of all below, for their calls.

        In full detail, and once: for the cgroup that holds all calls. Where it cannot be done,
        `programs` says so.

        Args:
            cgroup: the path of its directory.

        Raises:
            OSError: the directory cannot be opened.
        """
        directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for name, program in self._packets.items():
                try:
                    link = bpf_syscall.attach_cgroup(program, directory, PROGRAMS[name].target)
                except OSError as error:
                    self._off[name] = error.strerror or str(error)
                else:
                    self._stack.callback(os.close, link)
                    self._off.pop(name, None)
        finally:
            os.close(directory)
        self._absent = _absent(self.programs, self.features)

    def read(self, slot: int, *, living: bool = False) -> Counters | None:
        """Return what a call has used so far, None if the slot is not in use (any more).

        Args:
            slot: from `add`.
            living: first count what its living processes have used since they were last looked
                at (some 34 us where there are 100 tasks); in full detail that is done all the time.
        """
        if living:
            bpf_syscall.run_iterator(self._living)
        return layout.decode_call(self._calls, slot, self._absent)

    def poll(self, timeout: float | None = 0) -> list[Event]:
        """Wait for an event that is urgent, at most `timeout` seconds, and return all there are.

        Urgent are "escape", "leave" and "oom"; the others come along, or when the buffer fills.
        """
        if timeout != 0:
            self._ring.wait(timeout)
        return [layout.decode_event(record) for record in self._ring.drain()]

    def close(self) -> None:
        """Take the programs off; twice is no error."""
        self._stack.close()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _introduce(self, program: int) -> int:
        """Begin the settings, let the kernel write what it has into them; return the features."""
        with self._settings() as settings:
            layout.SETTINGS.pack_into(settings, 0, 0, mmap.PAGESIZE, 0, 0, 0)
        link = bpf_syscall.attach_iterator(program)
        try:
            bpf_syscall.run_iterator(link)
        finally:
            os.close(link)
        with self._settings() as settings:
            return int(layout.SETTINGS.unpack_from(settings)[2])

    def _can_stop(self) -> bool:
        return bool(self.features & layout.HAS_SIGNAL_TASK) or self.programs["stop_newborn"] is None

    def _set_stop(self, stop: bool) -> None:
        with self._settings() as settings:
            layout.SETTINGS.pack_into(settings, 0, stop, *layout.SETTINGS.unpack(settings)[1:])

    def _settings(self) -> mmap.mmap:
        return bpf_syscall.map_shared(self._maps["settings"], layout.SETTINGS.size, writable=True)

    def _attach(self, programs: Mapping[str, int], stack: contextlib.ExitStack) -> int:
        """Attach what attaches by itself; return the link of the iterator."""
        for name, fd in programs.items():
            program = PROGRAMS[name]
            if program.hook in ("iter", "cgroup_skb"):
                continue
            try:
                stack.callback(os.close, bpf_syscall.attach_tracing(fd))
            except OSError as error:
                if program.needed:
                    raise
                self._off[name] = error.strerror or str(error)
        living = bpf_syscall.attach_iterator(programs["living"])
        stack.callback(os.close, living)
        return living


def _kept(stack: contextlib.ExitStack, fd: int) -> int:
    """Return a duplicate that the stack closes."""
    duplicate = os.dup(fd)
    stack.callback(os.close, duplicate)
    return duplicate
