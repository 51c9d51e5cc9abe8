"""One cgroup: make, limit, read, freeze, kill, remove.

Theory of operation: a `Cgroup` is one `files.Directory`. The controller modules read their own
files, `limits` writes, `wait` waits for the kernel and `removal` removes; this class is their face.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Mapping
from typing import Final

from agentcgroup.cgroup import (
    cpu,
    division,
    files,
    io,
    limits,
    memory,
    pids,
    pressure,
    removal,
    wait,
)
from agentcgroup.cgroup.files import Directory
from agentcgroup.cgroup.limits import Limits
from agentcgroup.cgroup.meter import Meter
from agentcgroup.cgroup.pressure import Pressure, Resource
from agentcgroup.cgroup.stats import Events, Usage
from agentcgroup.threads import sleep

__all__ = ["Cgroup"]

#: The kernel refuses to move a task that is still being forked (EINVAL): try again.
_JOIN_TRIES: Final = 5
_JOIN_PAUSE_S: Final = 0.03


class Cgroup:
    """A directory under cgroupfs. Methods raise OSError with the file and the data in question.

    A Cgroup keeps one descriptor open until `close`. Several threads may use it; only its owner
    removes and closes it.

    Attributes:
        unmet: the limits that `set` has found not to hold.
    """

    __slots__ = ("__weakref__", "_directory", "unmet")

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self.unmet: tuple[str, ...] = ()

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
        """The kernel's number of the cgroup, as BPF programs see it: the inode of its directory."""
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

    def exists(self) -> bool:
        """Return whether the cgroup is still there."""
        return self._directory.has(files.PROCS)

    def available(self) -> frozenset[str]:
        """Return the controllers that this cgroup could enable for its children."""
        return frozenset(self._directory.read(files.CONTROLLERS).split())

    def enabled(self) -> frozenset[str]:
        """Return the controllers that are on for its children."""
        return frozenset(self._directory.read(files.SUBTREE_CONTROL).split())

    def enable(self, controllers: Iterable[str]) -> frozenset[str]:
        """Turn controllers on for the children and return all that are on then.

        Each is one write: a refusal of one (EBUSY: processes live right in here; or real-time tasks
        run, for the cpu controller) does not lose the others.
        """
        for controller in sorted(self.available().intersection(controllers) - self.enabled()):
            with contextlib.suppress(OSError):
                self._directory.write(files.SUBTREE_CONTROL, f"+{controller}")
        return self.enabled()

    def disable(self, controllers: Iterable[str]) -> frozenset[str]:
        """Turn controllers off where no child uses them; return those that are still on."""
        for controller in sorted(self.enabled().intersection(controllers)):
            with contextlib.suppress(OSError):
                self._directory.write(files.SUBTREE_CONTROL, f"-{controller}")
        return self.enabled()

    def why_not(self, controller: str) -> str:
        """Try once more to turn a controller on and return the kernel's error as text."""
        try:
            self._directory.write(files.SUBTREE_CONTROL, f"+{controller}")
        except OSError as error:
            return str(error)
        return "it took a second try"

    def is_machine_root(self) -> bool:
        """Return whether this is the root of the hierarchy, which may always hold processes."""
        return not self._directory.has(files.TYPE)

    # Limits and counters

    def set(self, wanted: Limits) -> Mapping[str, OSError | None]:
        """Write the limits that are set, each for itself; see `limits.write`.

        The kernel OOM-kills at once where memory_max is lowered below what is in use.

        Raises:
            OSError: the cgroup is gone (ENOENT), or no file can be opened.
        """
        unmet = limits.write(self._directory, wanted)
        if unmet and not self.exists():
            raise FileNotFoundError(errno.ENOENT, "the cgroup is gone", self.path)
        self.unmet = tuple(unmet)
        return unmet

    def usage(self) -> Usage:
        """Read the usage of the cgroup since it was made."""
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
        """Keep the files open that `populated` and `events` read, so that both are fast.

        With cold caches a pread takes 11 us (60 in a VM); open, read and close take 18 (245).
        Costs three descriptors until `close`; with `processes` a fourth, for `procs`.
        """
        if processes:
            self._directory.keep_open(files.PROCS)
        self._directory.keep_open(files.EVENTS)
        self._directory.keep_open(files.MEMORY_EVENTS)
        if not self._directory.keep_open(files.PIDS_EVENTS_LOCAL):
            self._directory.keep_open(files.PIDS_EVENTS)

    def meter(self) -> Meter:
        """Return a meter that attributes usage to calls that follow each other in this cgroup."""
        return Meter(self._directory)

    def events(self) -> Events:
        """Read the event counters of the cgroup since it was made."""
        directory = self._directory
        subtree = memory.events(directory)
        # The local counters are at most those of the subtree: where these are 0, so are those.
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
        """Read the pressure on a resource; None where the kernel does not account it."""
        return pressure.read(self._directory, resource)

    def pressure_trigger(self, resource: Resource, *, stall_s: float, window_s: float) -> int:
        """Return a descriptor for poll(POLLPRI); see `pressure.trigger`. The caller closes it."""
        return pressure.trigger(self._directory, resource, stall_s=stall_s, window_s=window_s)

    # Processes

    def procs(self) -> list[int]:
        """Return the pids right in this cgroup; 0 stands for one of another pid namespace."""
        return list(map(int, self._directory.read(files.PROCS).split()))

    def all_procs(self) -> list[int]:
        """Return the pids in this cgroup and in all below it."""
        return self.procs() + division.pids_below(self._directory)

    def note_child(self, pid: int) -> None:
        """Do nothing: the kernel knows the children that were born in here."""

    def populated(self) -> bool:
        """Return whether a live process is in here or below; False too when the cgroup is gone."""
        return wait.state(self._directory, "populated")

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
                sleep(_JOIN_PAUSE_S)
            else:
                return

    def freeze(self, timeout: float = 1.0) -> bool:
        """Stop all processes in here and below; return whether all stopped within `timeout` s.

        A process in uninterruptible sleep freezes only when it wakes.
        """
        self._directory.write(files.FREEZE, "1")
        return wait.until(self._directory, "frozen", True, timeout)

    def thaw(self) -> None:
        """Resume frozen processes."""
        self._directory.write(files.FREEZE, "0")

    def kill(self) -> None:
        """SIGKILL every process in here and below, frozen ones and those being forked too."""
        removal.kill(self._directory)

    def wait_empty(self, timeout: float) -> bool:
        """Wait until no live process is in here or below; return whether that was so in time."""
        return wait.until(self._directory, "populated", False, timeout)

    # The end

    def remove(self, timeout: float = 2.0) -> None:
        """Kill the processes in here and below, and remove the cgroup with all its children.

        A cgroup that is gone counts as removed. The descriptor stays open until `close`.

        Args:
            timeout: seconds to wait for the processes to die and for the kernel to free them.

        Raises:
            OSError: EBUSY, with the processes that are left, when `timeout` is over.
        """
        if not removal.rmdir(self.path):
            removal.remove(self._directory, timeout)
