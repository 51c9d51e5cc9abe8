"""The single door to cgroupfs: every cgroup file is opened here and nowhere else.

Theory of operation: a `Directory` is an O_PATH descriptor of one cgroup. Each read or write is
openat + read/write + close relative to it, so a path is resolved once, and a cgroup that was
renamed or removed meanwhile cannot be mistaken for another one. Only the directory's own descriptor
stays open between two calls, and the files that `keep_open` opened. The name of a new cgroup passes
`checked_name` before it reaches the kernel.

The parent's subtree_control and the kernel decide which files a cgroup has, so siblings have the
same. A file that one of them lacks is not opened again in the others: an ENOENT costs 10 us, and a
call on a machine without controllers would cause ten of them.

Errors are OSErrors with the kernel's errno, the file's full path as `filename`, and the refused
data in the text, because EINVAL alone does not name it.
"""

from __future__ import annotations

import errno
import os
from typing import Final

from agentcgroup import syscalls

__all__ = ["Directory", "checked_name", "is_cgroup2", "mount_id"]

# Core interface files.
PROCS: Final = "cgroup.procs"
TYPE: Final = "cgroup.type"
CONTROLLERS: Final = "cgroup.controllers"
SUBTREE_CONTROL: Final = "cgroup.subtree_control"
EVENTS: Final = "cgroup.events"
FREEZE: Final = "cgroup.freeze"  # since 5.2
KILL: Final = "cgroup.kill"  # since 5.14

# Files that are read, and those that rows of limits share; the other limits name their own.
MEMORY_MAX: Final = "memory.max"
MEMORY_PEAK: Final = "memory.peak"  # since 5.19
MEMORY_EVENTS: Final = "memory.events"
MEMORY_EVENTS_LOCAL: Final = "memory.events.local"  # since 5.2

CPU_MAX_BURST: Final = "cpu.max.burst"  # since 5.14
CPU_STAT: Final = "cpu.stat"  # usage without the controller too

PIDS_PEAK: Final = "pids.peak"  # since 6.1
PIDS_EVENTS: Final = "pids.events"
PIDS_EVENTS_LOCAL: Final = "pids.events.local"  # since 6.11

IO_STAT: Final = "io.stat"

# os.open adds O_CLOEXEC itself (PEP 446); O_PATH exists on Linux alone, where all this runs.
_DIRECTORY_FLAGS: Final = (
    getattr(os, "O_PATH", 0) | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
)

_READ_SIZE: Final = 16384
#: The kernel fills a page (4096 bytes at least) before it splits a file over two reads.
_ONE_READ: Final = 2048


def checked_name(name: str) -> str:
    """Return `name` if it is one plain part of a path.

    Raises:
        ValueError: it is empty, `.`, `..`, or holds `/`, NUL or a line break.
    """
    if name in ("", ".", "..") or any(char in name for char in "/\0\n"):
        raise ValueError(f"{name!r} cannot name a cgroup: it has to be one plain part of a path")
    return name


def mount_id(fd: int) -> int:
    """Return the id of the mount that a descriptor lies on, as in /proc/self/mountinfo."""
    lines = syscalls.read_file(f"/proc/self/fdinfo/{fd}").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(b"mnt_id:"))


def is_cgroup2(fd: int) -> bool:
    """Return whether an open descriptor lies on a cgroup v2 file system.

    Reads /proc: only ctypes could call statfs(2), and it takes milliseconds to load.
    """
    start = b"%d " % mount_id(fd)
    lines = syscalls.read_file("/proc/self/mountinfo").splitlines()
    return any(line.startswith(start) and b" - cgroup2 " in line for line in lines)


class Directory:
    """One directory of cgroupfs.

    Attributes:
        path: absolute path at the time of opening.
        fd: O_PATH descriptor, usable with openat(2) and clone3(CLONE_INTO_CGROUP).
    """

    __slots__ = ("_absent", "_absent_below", "_kept", "fd", "path")

    def __init__(self, path: str, fd: int, absent: set[str] | None = None) -> None:
        self.path = path
        self.fd = fd
        self._kept: dict[str, int] = {}
        self._absent = set() if absent is None else absent  # shared with the siblings
        self._absent_below: set[str] = set()

    @classmethod
    def open(cls, path: str) -> Directory:
        """Open the cgroup at `path`, made by this package or not.

        Raises:
            OSError: ENOENT and the like for the path; ENOTSUP where it is not on cgroup v2.
        """
        if not os.path.isabs(path):
            path = f"{syscalls.getcwd()}/{path}"
        path = os.path.normpath(path)
        fd = syscalls.open(path, _DIRECTORY_FLAGS)
        if not is_cgroup2(fd):
            syscalls.close(fd)
            raise OSError(errno.ENOTSUP, "not on a cgroup v2 file system", path)
        return cls(path, fd)

    def close(self) -> None:
        """Close the descriptor; a second call does nothing."""
        # A signal handler may raise in `__init__` before there are attributes.
        fd, self.fd = getattr(self, "fd", -1), -1
        kept, self._kept = getattr(self, "_kept", {}), {}
        for one in (fd, *kept.values()):
            if one >= 0:
                syscalls.close(one)

    # A process makes thousands of cgroups; one that is never closed must not leak its descriptor.
    __del__ = close

    # Files

    def keep_open(self, file: str) -> bool:
        """Keep a file open for later reads; return whether it is open."""
        if file in self._absent:
            return False
        try:
            self._kept[file] = syscalls.open(file, os.O_RDONLY, dir_fd=self.fd)
        except OSError as error:  # out of descriptors: each read opens the file then
            self._learn(error, file)
            return False
        return True

    def read(self, file: str) -> str:
        """Return the whole text of one interface file.

        Raises:
            OSError: with the path of the file; ENOENT or ENODEV where it, or the cgroup, is gone.
        """
        try:
            return self._read(file)
        except OSError as error:
            raise self._explained(error, file) from None

    def read_optional(self, file: str) -> str | None:
        """Return the text of a file, None where this kernel or this cgroup lacks it."""
        if file in self._absent:
            return None
        try:
            return self._read(file)
        except OSError as error:
            self._learn(error, file)
            # EOPNOTSUPP: the file is there, its feature is off (pressure files under psi=0).
            if error.errno in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
                return None
            raise self._explained(error, file) from None

    def write(self, file: str, data: str) -> None:
        """Write to one interface file, all data in one system call.

        Raises:
            OSError: with the path of the file and the data in its text.
        """
        try:
            self._write(file, data)
        except OSError as error:
            raise self._explained(error, file, data) from None
        if file == SUBTREE_CONTROL:
            self._absent_below.clear()

    def write_optional(self, file: str, data: str) -> bool:
        """Write `data`; return False where this kernel or this cgroup lacks the file."""
        if file in self._absent:
            return False
        try:
            self._write(file, data)
        except FileNotFoundError as error:
            self._learn(error, file)
            return False
        except OSError as error:
            raise self._explained(error, file, data) from None
        return True

    def has(self, file: str) -> bool:
        """Return whether the kernel shows `file` in this cgroup."""
        return syscalls.access(file, os.F_OK, dir_fd=self.fd)

    def watch(self, file: str, setup: str | None = None) -> int:
        """Open `file` for poll(2), write `setup` to it, and return the descriptor to close."""
        try:
            fd = syscalls.open(file, os.O_RDONLY if setup is None else os.O_RDWR, dir_fd=self.fd)
            if setup is None:
                return fd
            try:
                syscalls.write(fd, setup.encode("ascii"))
            except OSError:
                syscalls.close(fd)
                raise
        except OSError as error:
            raise self._explained(error, file, setup) from None
        return fd

    # Directories

    def make(self, name: str, *, exist_ok: bool = False) -> Directory:
        """Make the child cgroup `name` and open it.

        Raises:
            ValueError: `name` is not one plain part of a path.
            FileExistsError: it is there already and `exist_ok` is false.
        """
        checked_name(name)
        path = f"{self.path}/{name}"
        try:
            try:
                syscalls.mkdir(name, 0o755, dir_fd=self.fd)
            except FileExistsError:
                if not exist_ok:
                    raise
            fd = syscalls.open(name, _DIRECTORY_FLAGS, dir_fd=self.fd)
        except OSError as error:
            raise self._explained(error, name) from None
        return Directory(path, fd, self._absent_below)

    def children(self) -> list[str]:
        """Return the names of the child cgroups, in no order."""
        return _subdirectories(self.path)

    def descendants(self) -> list[str]:
        """Return the paths of all cgroups below this one, parents before their children."""
        found: list[str] = []
        pending = [self.path]
        while pending:
            above = pending.pop()
            below = [f"{above}/{name}" for name in _subdirectories(above)]
            found += below
            pending += below
        return found

    # Inside

    def _learn(self, error: OSError, file: str) -> None:
        """Remember a file that is missing, unless the whole cgroup is gone."""
        if error.errno == errno.ENOENT and self.has(PROCS):
            self._absent.add(file)

    def _read(self, file: str) -> str:
        kept = self._kept.get(file)
        if kept is not None:
            return syscalls.pread(kept, _READ_SIZE, 0).decode("ascii", "replace")
        fd = syscalls.open(file, os.O_RDONLY, dir_fd=self.fd)
        try:
            data = syscalls.read(fd, _READ_SIZE)
            if len(data) >= _ONE_READ:
                while more := syscalls.read(fd, _READ_SIZE):
                    data += more
        finally:
            syscalls.close(fd)
        return data.decode("ascii", "replace")

    def _write(self, file: str, data: str) -> None:
        fd = syscalls.open(file, os.O_WRONLY, dir_fd=self.fd)
        try:
            syscalls.write(fd, data.encode("ascii"))
        finally:
            syscalls.close(fd)

    def _explained(self, error: OSError, file: str, data: str | None = None) -> OSError:
        """Return the same error with the path of the file and the refused data."""
        text = error.strerror or str(error)
        if data is not None:
            text = f"{text} (writing {data!r})"
        return OSError(error.errno, text, f"{self.path}/{file}")


def _subdirectories(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:  # removed meanwhile
        return []
