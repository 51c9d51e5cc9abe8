"""One cgroup: make, limit, read, freeze, kill, remove.

Theory of operation: a `Cgroup` is one `files.Directory`; each controller module knows its own files
and this class only puts them in order. Waiting for the kernel (a cgroup that empties, a freeze that
takes hold) looks at cgroup.events: a few short sleeps first, because most of it is over within a
millisecond, then poll(2), because the kernel sends at most one notification per file in 10 ms.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import time
from collections.abc import Iterable
from typing import Final

from agentcgroup.cgroup import cpu, cpuset, files, io, memory, pids, pressure
from agentcgroup.cgroup.files import Directory
from agentcgroup.cgroup.limits import Limits
from agentcgroup.cgroup.meter import Meter
from agentcgroup.cgroup.pressure import Pressure, Resource
from agentcgroup.cgroup.stats import Events, Usage

__all__ = ["Cgroup"]

#: Sleeps before poll(2) takes over; together about the 10 ms of one notification.
_FIRST_SLEEPS: Final = (0.0002, 0.0004, 0.0008, 0.0016, 0.003, 0.004)
#: A poll(2) ends after this long even without a notification, should one be missed.
_POLL_S: Final = 0.25
#: A task that is still being forked cannot be moved (EINVAL); it is soon done.
_JOIN_TRIES: Final = 5
_JOIN_PAUSE_S: Final = 0.03


class Cgroup:
    """A directory under cgroupfs. Methods raise OSError with the file and the data in question.

    A Cgroup keeps one descriptor open until `close`. It may be used by several threads; removing
    and closing are for the one that owns it.
    """

    __slots__ = ("_directory",)

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    @classmethod
    def open(cls, path: str) -> Cgroup:
        """Open an existing cgroup.

        Raises:
            OSError: ENOENT and the like for the path; ENOTSUP where it is not on cgroup v2.
        """
        return cls(Directory.open(path))

    def __repr__(self) -> str:
        return f"Cgroup({self.path!r})"

    @property
    def path(self) -> str:
        """Absolute path."""
        return self._directory.path

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def fd(self) -> int:
        """O_PATH descriptor of the directory, for clone3(CLONE_INTO_CGROUP) and openat(2)."""
        return self._directory.fd

    @property
    def id(self) -> int:
        """The kernel's number for it, as BPF programs see it: the inode of its directory."""
        return os.fstat(self.fd).st_ino

    def close(self) -> None:
        """Close the descriptor; the cgroup itself stays."""
        self._directory.close()

    # The tree

    def child(self, name: str, *, exist_ok: bool = False) -> Cgroup:
        """Make a cgroup below this one.

        Raises:
            ValueError: `name` is not one plain part of a path.
            FileExistsError: it is there already and `exist_ok` is false.
        """
        return Cgroup(self._directory.make(name, exist_ok=exist_ok))

    def children(self) -> list[str]:
        """Return the names of the cgroups right below this one."""
        return self._directory.children()

    def available(self) -> frozenset[str]:
        """Return the controllers that this cgroup could enable for its children."""
        return frozenset(self._directory.read(files.CONTROLLERS).split())

    def enabled(self) -> frozenset[str]:
        """Return the controllers that are on for its children."""
        return frozenset(self._directory.read(files.SUBTREE_CONTROL).split())

    def enable(self, controllers: Iterable[str]) -> frozenset[str]:
        """Turn controllers on for the children and return all that are on then.

        One by one, so that one refusal (EBUSY: processes live right in here; or a cpu controller
        with real-time tasks about) does not lose the others.
        """
        for controller in sorted(self.available().intersection(controllers) - self.enabled()):
            with contextlib.suppress(OSError):
                self._directory.write(files.SUBTREE_CONTROL, f"+{controller}")
        return self.enabled()

    def disable(self, controllers: Iterable[str]) -> frozenset[str]:
        """Turn controllers off again where no child uses them; return what is still on."""
        for controller in sorted(self.enabled().intersection(controllers)):
            with contextlib.suppress(OSError):
                self._directory.write(files.SUBTREE_CONTROL, f"-{controller}")
        return self.enabled()

    def why_not(self, controller: str) -> str:
        """Try once more to turn a controller on and return what the kernel says against it."""
        try:
            self._directory.write(files.SUBTREE_CONTROL, f"+{controller}")
        except OSError as error:
            return str(error)
        return "it took a second try"

    def is_machine_root(self) -> bool:
        """Say whether this is the root of the whole hierarchy, which may hold processes always."""
        return not self._directory.has(files.TYPE)

    # Limits and what became of them

    def set(self, limits: Limits) -> frozenset[str]:
        """Write the limits that are set.

        Lowering memory_max below what is in use OOM-kills at once, as the kernel does it.

        Returns:
            The keys that could not be applied because this kernel has no such file or the
            controller is not enabled here.

        Raises:
            OSError: a value was refused, or the cgroup is gone (ENOENT).
        """
        directory = self._directory
        missing = [
            key
            for controller in (memory, cpu, pids, io, cpuset)
            for key in controller.write(directory, limits)
        ]
        if missing and not directory.has(files.PROCS):
            raise FileNotFoundError(errno.ENOENT, "the cgroup is gone", self.path)
        return frozenset(missing)

    def usage(self) -> Usage:
        """Read what the cgroup has used so far."""
        directory = self._directory
        times = cpu.stat(directory)
        usage_us, throttled_us = times.get("usage_usec"), times.get("throttled_usec")
        moved = io.totals(directory)
        return Usage(
            memory_peak_bytes=memory.peak(directory),
            cpu_usage_s=None if usage_us is None else usage_us / 1e6,
            throttled_s=None if throttled_us is None else throttled_us / 1e6,
            throttled_periods=times.get("nr_throttled"),
            pids_peak=pids.peak(directory),
            io_read_bytes=None if moved is None else moved[0],
            io_write_bytes=None if moved is None else moved[1],
        )

    def keep_open(self, *, processes: bool = False) -> None:
        """Keep open what `populated` and `events` read, for those who cannot wait then.

        After other work a pread takes 11 us natively and 60 in a VM; open, read and close take 18
        and 245. Costs three descriptors at most until `close`; with `processes` a fourth, for
        `procs`.
        """
        if processes:
            self._directory.keep_open(files.PROCS)
        self._directory.keep_open(files.EVENTS)
        self._directory.keep_open(files.MEMORY_EVENTS)
        if not self._directory.keep_open(files.PIDS_EVENTS_LOCAL):
            self._directory.keep_open(files.PIDS_EVENTS)

    def meter(self) -> Meter:
        """Return what tells apart the usage of calls that follow each other in here."""
        return Meter(self._directory)

    def events(self) -> Events:
        """Read what has happened to the cgroup so far."""
        directory = self._directory
        subtree = memory.events(directory)
        # The local counters are at most those of the subtree: nothing there, nothing to read here.
        local = memory.local_events(directory) if subtree and any(subtree.values()) else subtree
        subtree, local = subtree or {}, local or {}
        return Events(
            oom=subtree.get("oom"),
            oom_kill=subtree.get("oom_kill"),
            oom_local=local.get("oom"),
            oom_kill_local=local.get("oom_kill"),
            memory_high=subtree.get("high"),
            memory_max=subtree.get("max"),
            pids_max=pids.refused(directory),
        )

    def pressure(self, resource: Resource) -> Pressure | None:
        """Read the pressure on "cpu", "memory" or "io"; None where it is not accounted."""
        return pressure.read(self._directory, resource)

    def pressure_trigger(self, resource: Resource, *, stall_s: float, window_s: float) -> int:
        """Return a descriptor for poll(POLLPRI); see `pressure.trigger`. The caller closes it."""
        return pressure.trigger(self._directory, resource, stall_s=stall_s, window_s=window_s)

    # Processes

    def procs(self) -> list[int]:
        """Return the processes right in this cgroup; 0 stands for one of another pid namespace."""
        return list(map(int, self._directory.read(files.PROCS).split()))

    def note_child(self, pid: int) -> None:
        """Do nothing: the kernel knows the children that were born in here."""

    def populated(self) -> bool:
        """Say whether a live process is in here or below; False too when the cgroup is gone."""
        return self._state("populated")

    def join(self, pid: int = 0) -> None:
        """Move a process with all its threads in here; 0 is the calling process.

        Costs an RCU grace period, about 10 ms, unless cgroupfs is mounted with favordynmods.
        """
        for attempt in range(_JOIN_TRIES):
            try:
                self._directory.write(files.PROCS, str(pid))
            except OSError as error:
                if error.errno != errno.EINVAL or attempt + 1 == _JOIN_TRIES:
                    raise
                time.sleep(_JOIN_PAUSE_S)
            else:
                return

    def freeze(self, timeout: float = 1.0) -> bool:
        """Stop all processes in here and below; return whether they stood still within `timeout` s.

        A process in uninterruptible sleep freezes only when it wakes.
        """
        self._directory.write(files.FREEZE, "1")
        return self._wait("frozen", True, timeout)

    def thaw(self) -> None:
        """Let frozen processes go on."""
        self._directory.write(files.FREEZE, "0")

    def kill(self) -> None:
        """SIGKILL every process in here and below, frozen ones and those being forked too."""
        try:
            self._directory.write(files.KILL, "1")
        except FileNotFoundError:
            if self._directory.has(files.PROCS):
                self._kill_one_by_one()

    def wait_empty(self, timeout: float) -> bool:
        """Wait until no live process is in here or below; return whether it came to that."""
        return self._wait("populated", False, timeout)

    # The end

    def remove(self, timeout: float = 2.0) -> None:
        """Kill what lives in here and below, and remove the cgroup with all its children.

        Gone already is fine. The descriptor stays open until `close`.

        Args:
            timeout: seconds to wait for processes to die and the kernel to let go.

        Raises:
            OSError: EBUSY, with the processes that are left, when `timeout` is over.
        """
        if _rmdir(self.path):
            return
        deadline = time.monotonic() + timeout
        pause = 0.001
        self.kill()
        self.wait_empty(timeout)
        while not self._rmdir_all():
            if time.monotonic() >= deadline:
                left = ", ".join(map(str, self.procs()[:10])) or "none right in it"
                raise OSError(errno.EBUSY, f"cannot be removed, processes left: {left}", self.path)
            time.sleep(pause)
            pause = min(2 * pause, 0.1)
            self.kill()  # whatever entered since

    # Inside

    def _state(self, key: str) -> bool:
        text = self._directory.read_optional(files.EVENTS)
        return text is not None and f"{key} 1" in text

    def _wait(self, key: str, wanted: bool, timeout: float) -> bool:
        """Wait until a key of cgroup.events has the wanted state; a cgroup that is gone has 0."""
        deadline = time.monotonic() + timeout
        for pause in _FIRST_SLEEPS:
            if self._state(key) is wanted:
                return True
            if time.monotonic() + pause > deadline:
                break
            time.sleep(pause)
        try:
            fd = self._directory.watch(files.EVENTS)
        except OSError:
            return self._state(key) is wanted
        try:
            poll = select.poll()
            poll.register(fd, select.POLLPRI)
            while True:
                os.pread(fd, 256, 0)  # arms the notification, so that a change after it is seen
                if self._state(key) is wanted:
                    return True
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                poll.poll(min(left, _POLL_S) * 1000)
        except OSError as error:
            if error.errno != errno.ENODEV:  # removed while we waited
                raise
            return self._state(key) is wanted
        finally:
            os.close(fd)

    def _kill_one_by_one(self) -> None:
        """Do what cgroup.kill does, before 5.14: what is frozen cannot fork away from it."""
        tree = [self.path, *self._directory.descendants()]
        self.freeze(0.5)
        try:
            for path in tree:
                with (
                    contextlib.suppress(FileNotFoundError),
                    contextlib.closing(Cgroup.open(path)) as one,
                ):
                    for pid in filter(None, one.procs()):
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
        finally:
            self.thaw()

    def _rmdir_all(self) -> bool:
        busy = [path for path in reversed(self._directory.descendants()) if not _rmdir(path)]
        return not busy and _rmdir(self.path)


def _rmdir(path: str) -> bool:
    """Remove one cgroup; return False while it is busy. Gone already counts as removed."""
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True
