"""The attached programs: they watch calls by their cgroups, count what they do, report events.

The programs stay attached as long as the process that holds an `AttachedPrograms` lives; the kernel
detaches them at its end. Another process can read the counters through a `CountersView`, and have
calls watched through an `Announcer`.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from agentcgroup.bpf import bpf_syscall, layout, loader
from agentcgroup.bpf.counters_view import absent_on_kernel
from agentcgroup.bpf.layout import BpfEvent, Counters
from agentcgroup.bpf.programs import PROGRAMS, Detail
from agentcgroup.bpf.ring import Ring
from agentcgroup.bpf.slots import Slots
from agentcgroup.errors import BpfUnavailable

__all__ = ["AttachedPrograms"]

_NO_NETWORK = "is attached to no cgroup yet: watch_network() was not called"


@dataclass(slots=True)
class _Watched:
    """What the maps have of one call; `own`: its slot is none of a caller's own `Slots`."""

    own: bool
    cgroups: set[int] = field(default_factory=set)
    threads: set[int] = field(default_factory=set)


class AttachedPrograms:
    """The programs, attached. Only one thread may use them at a time.

    Attributes:
        counters_fd: the map of counters, for a `CountersView` in another process.
        cgroups_fd, threads_fd: the maps that `add` and `add_thread` write, for another process that
            writes them itself.
        features: what this kernel keeps of a task, bits of enum feature in monitor.h.
        stops: whether a process that is born outside its call's cgroup is stopped; kernels before
            6.13 need a trampoline for it.
        fd: readable when there is an event to act upon soon.
    """

    @classmethod
    def open(cls, *, detail: Detail = "default", stop: bool = True) -> AttachedPrograms:
        """Load and attach what this machine allows.

        Args:
            detail: "default" costs processes outside the watched calls nothing that can be
                measured; "full" adds the scheduler, memory charges, files and packets.
            stop: stop a process at birth that is born outside its call's cgroup, where the kernel
                can do that (`stops`); the reader of the event has to send SIGCONT.

        Raises:
            BpfUnavailable: the programs that are always needed do not load or attach.
        """
        with contextlib.closing(loader.load(detail)) as loaded:
            try:
                return cls(loaded, stop=stop)
            except OSError as error:
                raise BpfUnavailable(
                    f"The kernel does not attach our programs ({error})."
                ) from error

    def __init__(self, loaded: loader.LoadedPrograms, *, stop: bool) -> None:
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
            self._absent = absent_on_kernel(self.programs, self.features)
            self._stack = stack.pop_all()

    @property
    def programs(self) -> Mapping[str, str | None]:
        """None for each program that is attached, else why it is off."""
        return MappingProxyType({name: self._off.get(name) for name in PROGRAMS})

    def add(self, cgroup_id: int, slot_hint: int | None = None) -> int:
        """Watch a cgroup, and all that will be made below it, as one call.

        Processes that are in it already are counted from their next event. So move processes in
        afterwards, or call `read(slot, living=True)` once to count from now on.

        Args:
            cgroup_id: the inode number of its directory.
            slot_hint: a slot from the caller's own `Slots`; the caller gives it back there.

        Returns:
            The slot.

        Raises:
            BpfUnavailable: no more calls, or cgroups, can be watched.
            ValueError: the place of `slot_hint` in the array is in use by another slot.
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

    def reserve(self, count: int) -> list[int]:
        """Return slots for an `Announcer`; `add` uses them no more."""
        return [self._slots.take() for _ in range(count)]

    def adopt(self, slot: int, cgroup_id: int) -> None:
        """Follow a call that an `Announcer` has begun to watch."""
        self._watched[slot] = _Watched(own=False, cgroups={cgroup_id})

    def add_child(self, slot: int, cgroup_id: int) -> None:
        """Watch one more cgroup as part of a call: one that was there before `add`.

        A cgroup that is watched for another call already stays that call's.

        Raises:
            KeyError: the slot is not in use.
            OSError: no more cgroups can be watched.
        """
        self._watched[slot].cgroups.add(cgroup_id)
        bpf_syscall.update(self.cgroups_fd, cgroup_id, slot, key_size=8, new=True)

    def remove(self, slot: int) -> None:
        """Stop watching a call; its processes are counted no more. Twice is no error."""
        watched = self._watched.pop(slot, None)
        if watched is None:
            return
        layout.end_call(self._calls, slot)
        # A cgroup below keeps a slot that is not in use; its entry goes when it is removed.
        for cgroup_id in watched.cgroups:
            bpf_syscall.delete(self.cgroups_fd, cgroup_id, key_size=8)
        for tid in watched.threads:
            bpf_syscall.delete(self.threads_fd, tid)
        if watched.own:
            self._slots.give_back(slot)

    def add_thread(self, slot: int, tid: int) -> None:
        """Attribute to a call what a thread outside of its cgroup does from now on.

        That is the memory charged to it, the files it opens, its stalls, and the processes it
        starts.

        Raises:
            KeyError: the slot is not in use.
            OSError: no more threads can be watched.
        """
        self._watched[slot].threads.add(tid)
        bpf_syscall.update(self._maps["threads"], tid, slot)

    def remove_thread(self, tid: int) -> None:
        """Undo `add_thread`; a thread that was not added is no error."""
        for watched in self._watched.values():
            watched.threads.discard(tid)
        bpf_syscall.delete(self._maps["threads"], tid)

    def watch_network(self, cgroup: str) -> None:
        """Count the packets of a cgroup's sockets, and of all below, for their calls.

        Only in full detail, and only once: for the cgroup above all calls. `programs` has the
        reason where the kernel refuses.

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
        self._absent = absent_on_kernel(self.programs, self.features)

    def read(self, slot: int, *, living: bool = False) -> Counters | None:
        """Return what a call has used so far, None if the slot is not in use (any more).

        Args:
            slot: from `add`.
            living: first count what its living processes have used since they were last counted
                (takes some 34 us with 100 tasks); in full detail each switch of a task does that.
        """
        if living:
            bpf_syscall.run_iterator(self._living)
        return layout.decode_call(self._calls, slot, self._absent)

    def poll(self, timeout: float | None = 0) -> list[BpfEvent]:
        """Wait for an urgent event, at most `timeout` seconds, and return all events.

        The kinds "escape", "leave" and "oom" are urgent. The others do not end the wait, unless the
        buffer is a quarter full.
        """
        if timeout != 0:
            self._ring.wait(timeout)
        return [layout.decode_event(record) for record in self._ring.drain()]

    def close(self) -> None:
        """Detach the programs; twice is no error."""
        self._stack.close()

    def __enter__(self) -> AttachedPrograms:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _introduce(self, program: int) -> int:
        """Write the settings, have the program `introduce` add to them; return the features."""
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
        """Attach all but iterators and packets; return the link of the iterator `living`."""
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
    """Return a duplicate of a descriptor, which the stack closes."""
    duplicate = os.dup(fd)
    stack.callback(os.close, duplicate)
    return duplicate
