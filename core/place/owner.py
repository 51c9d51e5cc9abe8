"""The owner of a run's directory, encoded in its name, and the removal of orphaned runs.

Theory of operation: the name of a run's directory has the pid, the start time, the boot id and the
pid namespace of the process that made it. These name one process for all time, without a file to
keep up to date: a reused pid has another start time, and a pid from before a reboot another boot
id. A lock would not work: the tools that a run starts inherit its descriptor and keep the lock.

`kill_orphans` ends the processes of dead owners' runs, and `reap` removes the runs. They leave
every directory whose name is not of this form, every run of another pid namespace (its owner's pid
has no meaning here), and every run whose owner lives.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from typing import Final, Literal

from agentcgroup import syscalls
from agentcgroup.cgroup.cgroup import Cgroup

__all__ = ["Owner", "Reaped", "is_run", "kill_orphans", "orphans", "reap", "run_name"]

Life = Literal["alive", "dead", "unknown"]

_PREFIX: Final = "agentcgroup.run-"
_NAME: Final = re.compile(
    re.escape(_PREFIX) + r"([0-9]{1,10})-([0-9]{1,20})-([0-9a-f]{8})-([0-9]{1,20})"
)


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that made a run.

    Attributes:
        pid: its pid in `pid_namespace`.
        start: its start time in clock ticks since boot, field 22 of /proc/PID/stat.
        boot: first 8 hex digits of /proc/sys/kernel/random/boot_id.
        pid_namespace: inode number of its pid namespace.
    """

    pid: int
    start: int
    boot: str
    pid_namespace: int

    @classmethod
    def myself(cls) -> Owner:
        """Return the calling process as an owner.

        Raises:
            RuntimeError: /proc is not mounted.
        """
        pid = os.getpid()
        start = _start_time(pid)
        if start is None:
            raise RuntimeError("/proc/self/stat cannot be read: is /proc mounted?")
        return cls(pid, start, _boot(), _pid_namespace())

    @classmethod
    def parse(cls, name: str) -> Owner | None:
        """Return the owner in a directory's name; None when that is not exactly a run's name."""
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        pid, start, boot, namespace = match.groups()
        return cls(int(pid), int(start), boot, int(namespace))

    def name(self) -> str:
        """Return the name of this owner's run directory."""
        return f"{_PREFIX}{self.pid}-{self.start}-{self.boot}-{self.pid_namespace}"

    def life(self) -> Life:
        """Return whether the owner lives; "unknown" for an owner of another pid namespace."""
        if self.boot != _boot():
            return "dead"
        if self.pid_namespace != _pid_namespace():
            return "unknown"
        start = _start_time(self.pid)
        if start is None and _exists(self.pid):  # behind a /proc mounted with hidepid
            return "unknown"
        return "alive" if start == self.start else "dead"


@dataclass(frozen=True, slots=True)
class Reaped:
    """One orphaned run that `reap` tried to remove.

    Attributes:
        path: its directory.
        error: why the directory is still there, None when it is gone.
    """

    path: str
    error: OSError | None


def run_name() -> str:
    """Return the name of the calling process's run directory."""
    return Owner.myself().name()


def is_run(name: str) -> bool:
    """Return whether a directory's name is exactly that of a run."""
    return Owner.parse(name) is not None


def orphans(base: Cgroup, *, force: bool = False) -> list[str]:
    """Return the names of the runs below `base` whose owner is dead.

    Args:
        base: the cgroup below which runs are made.
        force: include runs of other pid namespaces, whose owners may be alive.
    """
    wanted = {"dead", "unknown"} if force else {"dead"}
    return sorted(
        name
        for name in base.children()
        if (owner := Owner.parse(name)) is not None and owner.life() in wanted
    )


def kill_orphans(base: Cgroup) -> None:
    """Kill the processes of dead owners' runs below `base`, and wait for none; see `reap`."""
    for name in orphans(base):
        # Gone: another start was faster. Any other error `reap` meets, too, and returns.
        with (
            contextlib.suppress(OSError),
            contextlib.closing(Cgroup.open(f"{base.path}/{name}")) as orphan,
        ):
            orphan.kill()


def reap(base: Cgroup, *, force: bool = False, timeout: float = 2.0) -> list[Reaped]:
    """Kill and remove the runs of dead owners below `base`; return the result of each."""
    return [_reap_one(f"{base.path}/{name}", timeout) for name in orphans(base, force=force)]


def _reap_one(path: str, timeout: float) -> Reaped:
    try:
        with contextlib.closing(Cgroup.open(path)) as orphan:
            orphan.remove(timeout)
    except FileNotFoundError:  # another start was faster
        return Reaped(path, None)
    except OSError as error:
        return Reaped(path, error)
    return Reaped(path, None)


def _start_time(pid: int) -> int | None:
    """Return field 22 of /proc/PID/stat, 0 for a zombie, None when it cannot be seen."""
    try:
        # The command in field 2 may hold anything, brackets and spaces too.
        fields = syscalls.read_file(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _boot() -> str:
    return syscalls.read_file("/proc/sys/kernel/random/boot_id")[:8].decode()


def _pid_namespace() -> int:
    return syscalls.stat("/proc/self/ns/pid").st_ino
