"""BPF programs that BCC compiles at the start, for kernels without BTF: the life of processes.

The source needs the headers of the running kernel and the Python module of the BPF Compiler
Collection, which comes with the distribution (python3-bpfcc) and not from the Python package index.
The interpreter of a virtualenv does not find the distribution's modules, and should not: a process
of its own (`compiler`) imports this one module by its path, attaches the programs, sends their
descriptors and ends.
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
from agentcgroup.monitor.source import KernelEvent, MachineWideSource, Unavailable

__all__ = ["Bcc"]

#: Folders of the module: on Debian and Ubuntu; on Fedora, Arch and Alpine.
_PLACES: Final = (
    "/usr/lib/python3/dist-packages/bcc",
    "/usr/lib/python3*/site-packages/bcc",
)
_INSTALL: Final = "apt-get install python3-bpfcc (elsewhere python3-bcc, python-bcc or py3-bcc)."
#: Seconds that compiling may take: 1 s on an idle machine, a minute in an emulated one.
_PATIENCE: Final = 300
#: The inode number of the first pid namespace: PROC_PID_INIT_INO (linux/proc_ns.h).
_FIRST_PIDS: Final = 0xEFFFFFFC

_NO_RIGHTS: Final = (
    "BCC needs CAP_BPF and CAP_PERFMON",
    "run as root, or add both capabilities.",
)

_MAP_CREATE: Final = 0
_RING_BUFFER: Final = 27

#: struct event of `compiler`; in an exec the path of the program follows.
_EVENT: Final = struct.Struct("=QQIIIIi")
#: The value of the map `lost`.
_COUNT: Final = struct.Struct("=Q")
_KINDS: Final[tuple[Literal["fork", "exec", "exit", "oom"], ...]] = ("fork", "exec", "exit", "oom")


class Bcc(MachineWideSource):
    """The life cycle of processes, by BCC."""

    name = "bcc"
    missing: Mapping[str, str] = MappingProxyType(
        {"counters": "this backend has the life cycle of processes alone"}
    )

    def __init__(self) -> None:
        """Compile and attach the programs, which takes seconds.

        Raises:
            Unavailable: the kernel has no BPF ring buffer or refuses BPF to this process, this is
                not the first pid namespace, or BCC or the kernel's headers are not installed.
        """
        _check_kernel()
        self.fd, lost, *self._links = _attached(_module())
        self._ring = Ring(self.fd, compiler.PAGES * mmap.PAGESIZE)
        self._shared = bpf_syscall.map_shared(lost, mmap.PAGESIZE, writable=False)
        os.close(lost)
        self._lost = 0

    def read(self) -> Sequence[KernelEvent]:
        """Return the events since the last call."""
        found = [_decoded(record) for record in self._ring.drain()]
        (lost,) = _COUNT.unpack_from(self._shared)
        if lost != self._lost:
            self._lost = lost
            found.append(KernelEvent("lost", 0.0))
        return found

    def close(self) -> None:
        """Detach the programs."""
        self._ring.close()
        self._shared.close()
        for fd in (self.fd, *self._links):
            os.close(fd)


def _check_kernel() -> None:
    """Raise `Unavailable` where the kernel refuses: faster than to find out by compiling."""
    if os.stat("/proc/self/ns/pid").st_ino != _FIRST_PIDS:
        raise Unavailable(
            "BCC reports process ids of the machine's first pid namespace, and this is another one",
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
    """Return the folder of BCC's module, found without importing anything."""
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
    """Return the descriptors of the maps `events` and `lost`, and of the attached programs."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [sys.executable, "-I", "-S", compiler.__file__, module, str(theirs.fileno())]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,  # BCC writes its errors to both
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


def _explained(output: str) -> Unavailable:
    release = platform.release()
    if "Unable to find kernel headers" in output:
        return Unavailable(
            f"BCC compiles, and finds no headers of this kernel, {release}",
            f"apt-get install linux-headers-{release} (elsewhere kernel-devel or linux-headers).",
        )
    if "super-user privileges" in output:
        return Unavailable(*_NO_RIGHTS)
    last = output.strip().rpartition("\n")[2]
    if "libbcc.so" in last:
        return Unavailable(f"the library of BCC cannot be loaded: {last}", _INSTALL)
    lines = [line for line in output.splitlines() if "error:" in line] or [last]
    return Unavailable(f"BCC cannot load our programs: {lines[0].strip()}")


def _decoded(record: bytes) -> KernelEvent:
    time, cgroup, kind, pid, parent, thread, status = _EVENT.unpack_from(record)
    return KernelEvent(
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
    """Return a path as text; bytes that are not UTF-8 are escaped."""
    return name.partition(b"\0")[0].decode("utf-8", "backslashreplace") or None
