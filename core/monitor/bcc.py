"""Programs compiled on the spot by BCC, for kernels without BTF: fork, exec and exit of processes.

Needs the Python module of the BPF Compiler Collection, which comes with the distribution
(python3-bpfcc) and not from the Python package index, and the headers of the running kernel. Our
interpreter, that of a virtualenv, does not see the distribution's modules, and should not: the one
is imported by its path, in a process of its own (`compiler`), of which the descriptors of what it
has attached are all that stays.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import importlib.util
import mmap
import os
import platform
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, Literal

from agentcgroup.bpf import bpf_syscall
from agentcgroup.bpf.ring import Ring
from agentcgroup.monitor import compiler
from agentcgroup.monitor.source import OfAll, Raw, Unavailable

__all__ = ["Bcc"]

#: Where distributions have it: Debian and Ubuntu; Fedora, Arch and Alpine.
_PLACES: Final = (
    "/usr/lib/python3/dist-packages/bcc",
    "/usr/lib/python3*/site-packages/bcc",
)
_INSTALL: Final = "apt-get install python3-bpfcc (elsewhere python3-bcc, python-bcc or py3-bcc)."
#: Seconds that compiling may take: one where nothing else runs, a minute in an emulated machine.
_PATIENCE: Final = 300
#: The inode number of the first pid namespace: PROC_PID_INIT_INO (linux/proc_ns.h).
_FIRST_PIDS: Final = 0xEFFFFFFC

_NO_RIGHTS: Final = (
    "BCC needs CAP_BPF and CAP_PERFMON",
    "run as root, or add both capabilities.",
)

_MAP_CREATE: Final = 0
_RING_BUFFER: Final = 27

#: struct event of `compiler`; behind it, in an exec, is the path of the program.
_EVENT: Final = struct.Struct("=QQIIIIi")
#: What the map `lost` holds.
_COUNT: Final = struct.Struct("=Q")
_KINDS: Final[tuple[Literal["fork", "exec", "exit", "oom"], ...]] = ("fork", "exec", "exit", "oom")


class Bcc(OfAll):
    """The life cycle of processes, by BCC."""

    name = "bcc"
    missing: Mapping[str, str] = MappingProxyType(
        {"counters": "this backend has the life cycle of processes alone"}
    )

    def __init__(self) -> None:
        """Compile and attach the programs, which takes seconds.

        Raises:
            Unavailable: not allowed, not in the kernel, not in the first pid namespace, no module
                of BCC, or no headers of the kernel.
        """
        _check_kernel()
        self.fd, lost, *self._links = _attached(_module())
        self._ring = Ring(self.fd, compiler.PAGES * mmap.PAGESIZE)
        self._shared = bpf_syscall.map_shared(lost, mmap.PAGESIZE, writable=False)
        os.close(lost)
        self._lost = 0

    def read(self) -> Sequence[Raw]:
        """Return what has happened since the last time."""
        found = [_decoded(record) for record in self._ring.drain()]
        (lost,) = _COUNT.unpack_from(self._shared)
        if lost != self._lost:
            self._lost = lost
            found.append(Raw("lost", 0.0))
        return found

    def close(self) -> None:
        """Take the programs off."""
        self._ring.close()
        self._shared.close()
        for fd in (self.fd, *self._links):
            os.close(fd)


def _check_kernel() -> None:
    """Ask the kernel before the compiler: it is quick to say no."""
    if os.stat("/proc/self/ns/pid").st_ino != _FIRST_PIDS:
        raise Unavailable(
            "BCC tells process ids of the machine's first pid namespace, which are others here",
            "run outside of a container, or with its --pid=host.",
        )
    try:
        os.close(bpf_syscall.bpf(_MAP_CREATE, struct.pack("=IIII", _RING_BUFFER, 0, 0, 4096)))
    except PermissionError as error:
        raise Unavailable(*_NO_RIGHTS) from error
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise Unavailable("BPF has no ring buffer in this kernel", "Linux 5.8.") from error
        raise Unavailable(f"the kernel has no BPF for us: {error}") from error


def _module() -> str:
    """Return the folder of BCC's module; nothing is imported to find it."""
    found = [folder for place in _PLACES for folder in glob.glob(place)]
    with contextlib.suppress(ImportError, ValueError):
        spec = importlib.util.find_spec("bcc")
        found += (spec and spec.submodule_search_locations) or ()
    for folder in found:
        if os.path.exists(os.path.join(folder, "libbcc.py")):
            return folder
    if found:
        raise Unavailable(
            f"{found[0]} is not the BPF Compiler Collection but another module of that name: the"
            " package bcc of the Python package index, a library for lattices, cannot be used",
            _INSTALL,
        )
    raise Unavailable("the Python module of the BPF Compiler Collection is not there", _INSTALL)


def _attached(module: str) -> list[int]:
    """Return the descriptors of the ring buffer, of the lost, and of what is attached."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [sys.executable, "-I", "-S", compiler.__file__, module, str(theirs.fileno())]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,  # BCC complains on both
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                timeout=_PATIENCE,
                cwd="/",
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unavailable(f"BCC's compiler cannot be run: {error}") from error
        if done.returncode:
            raise _explained(done.stdout.decode(errors="replace"))
        _, fds, _, _ = socket.recv_fds(ours, 1, 2 + len(compiler.TRACEPOINTS))
    return fds


def _explained(told: str) -> Unavailable:
    release = platform.release()
    if "Unable to find kernel headers" in told:
        return Unavailable(
            f"BCC compiles, and finds no headers of this kernel, {release}",
            f"apt-get install linux-headers-{release} (elsewhere kernel-devel or linux-headers).",
        )
    if "super-user privileges" in told:
        return Unavailable(*_NO_RIGHTS)
    last = told.strip().rpartition("\n")[2]
    if "libbcc.so" in last:
        return Unavailable(f"the library of BCC cannot be loaded: {last}", _INSTALL)
    lines = [line for line in told.splitlines() if "error:" in line] or [last]
    return Unavailable(f"BCC cannot load our programs: {lines[0].strip()}")


def _decoded(record: bytes) -> Raw:
    time, cgroup, kind, pid, parent, thread, status = _EVENT.unpack_from(record)
    return Raw(
        _KINDS[kind],
        time / 1e9,
        pid,
        parent=parent,
        thread=thread,
        status=status,
        program=_text(record[_EVENT.size :]),
        cgroup=cgroup or None,
    )


def _text(name: bytes) -> str | None:
    """Return a path as text that every reader of a record can take."""
    return name.partition(b"\0")[0].decode("utf-8", "backslashreplace") or None
