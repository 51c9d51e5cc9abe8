"""Loads the programs whose target the running kernel has and that it allows this process to load.

The loader first reads the kernel's type information (BTF), to find the targets that exist. Then it
loads all wanted programs together; it leaves out each one that the kernel refuses, keeps the name
and the reason, and tries the rest again. It never looks at the kernel's version. Where libbpf is
missing, `skeleton` loads the programs that every kernel takes.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from agentcgroup.bpf import libbpf, skeleton
from agentcgroup.bpf.programs import PROGRAMS, Detail
from agentcgroup.errors import BpfUnavailable

__all__ = ["BpfSupport", "LoadedPrograms", "bpf_support", "load"]

_FOLDER: Final = os.path.dirname(__file__)
#: The object for kernels that have the function, and the one for those that do not.
_SIGNAL_TASK: Final = "bpf_send_signal_task"
_WITH_IT: Final = "monitor-signal"
_WITHOUT_IT: Final = "monitor"
_BTF: Final = "/sys/kernel/btf/vmlinux"

#: Capabilities that allow a part or all of it: bits of linux/capability.h.
_CAPABILITIES: Final = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39}
_INSTALL_LIBBPF: Final = "package libbpf1 on Debian and Ubuntu, libbpf on Fedora and Arch"
_HAVE_TYPES: Final = "boot a kernel that was built with CONFIG_DEBUG_INFO_BTF"
_GIVE_RIGHTS: Final = "run as root, or with the capabilities CAP_BPF and CAP_PERFMON"


@dataclass(frozen=True, slots=True, kw_only=True)
class BpfSupport:
    """What BPF can do on this machine, in this process.

    Attributes:
        libbpf: version of the libbpf that is installed, None without one.
        btf: whether the kernel has its type information.
        built: whether this installation has the compiled programs.
        loader: the way by which the programs load, None when they do not.
        programs: None for each that loads here, else why it does not.
        rights: those of the capabilities of `_CAPABILITIES` that this process has.
        problem: why the programs that are always needed do not load, None when they do.
        fix: what would solve the problem, None when nothing here can.
    """

    libbpf: str | None
    btf: bool
    built: bool
    loader: Literal["libbpf", "skeleton"] | None
    programs: Mapping[str, str | None]
    rights: frozenset[str]
    problem: str | None
    fix: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedPrograms:
    """File descriptors by name, and for each program that is not loaded the reason (`off`)."""

    programs: dict[str, int]
    maps: dict[str, int]
    off: dict[str, str]
    loader: Literal["libbpf", "skeleton"]

    def close(self) -> None:
        """Close every descriptor; the kernel unloads programs that no process holds."""
        for fd in (*self.programs.values(), *self.maps.values()):
            os.close(fd)


@functools.cache
def bpf_support() -> BpfSupport:
    """Load everything and unload it again, once per process; attaches nothing."""
    problem: str | None = None
    fix: str | None = None
    loader: Literal["libbpf", "skeleton"] | None = None
    programs: dict[str, str | None]
    try:
        loaded = load("full")
    except BpfUnavailable as error:
        problem, fix = error.reason, error.fix
        programs = dict.fromkeys(PROGRAMS, problem)
    else:
        loaded.close()
        loader = loaded.loader
        programs = {name: loaded.off.get(name) for name in PROGRAMS}
    return BpfSupport(
        libbpf=libbpf.version(),
        btf=os.path.exists(_BTF),
        built=os.path.exists(_path(_WITHOUT_IT, ".bpf.o")),
        loader=loader,
        programs=MappingProxyType(programs),
        rights=_rights(),
        problem=problem,
        fix=fix,
    )


def load(detail: Detail) -> LoadedPrograms:
    """Load the programs of a detail, but for those that the kernel refuses.

    Raises:
        BpfUnavailable: a program that is always needed does not load.
    """
    if sys.platform != "linux":
        raise BpfUnavailable("BPF is a part of Linux.")
    library = libbpf.libbpf()
    off = _not_wanted(detail)
    try:
        return _by_skeleton(off) if library is None else _by_libbpf(library, off)
    except OSError as error:
        raise _unavailable(str(error)) from error


def _by_libbpf(library: ctypes.CDLL, off: dict[str, str]) -> LoadedPrograms:
    missing, has_signal = _compared(library)
    code = _object(_WITH_IT if has_signal else _WITHOUT_IT)
    off.update(missing)
    while True:
        wanted = {name for name in PROGRAMS if name not in off}
        shadowed = {name for name in wanted if PROGRAMS[name].unless in wanted}
        try:
            loaded = libbpf.load(library, code, wanted - shadowed)
        except libbpf.Refused as refused:
            off.update(_refused(refused.programs, wanted))
        except libbpf.LoadError as error:
            raise _unavailable(str(error)) from None
        else:
            break
        for name, reason in off.items():
            if PROGRAMS[name].needed:
                raise _unavailable(f"{name}: {reason}")
    off.update({name: f"{PROGRAMS[name].unless} does it" for name in shadowed})
    return LoadedPrograms(programs=loaded.programs, maps=loaded.maps, off=off, loader="libbpf")


def _by_skeleton(off: dict[str, str]) -> LoadedPrograms:
    try:
        loaded = _first_skeleton()
    except FileNotFoundError:
        raise BpfUnavailable(
            "libbpf.so.1 is not installed.", fix=f"install it: {_INSTALL_LIBBPF}"
        ) from None
    for name in off.keys() & loaded.programs.keys():
        os.close(loaded.programs.pop(name))
    for name in PROGRAMS.keys() - loaded.programs.keys() - off.keys():
        off[name] = f"needs libbpf.so.1, which is not installed ({_INSTALL_LIBBPF})"
    return LoadedPrograms(programs=loaded.programs, maps=loaded.maps, off=off, loader="skeleton")


def _first_skeleton() -> libbpf.Loaded:
    """Load the first skeleton that the kernel takes: no BTF is read here."""
    with_it, without_it = (skeleton.read(_path(name, ".skel")) for name in (_WITH_IT, _WITHOUT_IT))
    try:
        return skeleton.load(with_it)
    except libbpf.LoadError:
        pass
    try:
        return skeleton.load(without_it)
    except libbpf.LoadError as error:
        raise _unavailable(str(error)) from None


def _path(name: str, kind: str) -> str:
    return os.path.join(_FOLDER, name + kind)


def _object(name: str) -> bytes:
    try:
        with open(_path(name, ".bpf.o"), "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise BpfUnavailable(
            "this installation has no compiled BPF programs, as it was built without a compiler "
            "for them.",
            fix="install clang (14 or newer) and this package again, or install its wheel",
        ) from None


def _not_wanted(detail: Detail) -> dict[str, str]:
    """Return the programs that are not tried, and why."""
    off = {}
    may_attach_packets = not _rights().isdisjoint({"CAP_NET_ADMIN", "CAP_SYS_ADMIN"})
    for name, program in PROGRAMS.items():
        if program.full and detail != "full":
            off[name] = "runs in full detail only"
        elif program.hook == "cgroup_skb" and not may_attach_packets:
            off[name] = "needs CAP_NET_ADMIN to be attached"  # it loads without the capability
    return off


def _compared(library: ctypes.CDLL) -> tuple[dict[str, str], bool]:
    """Return the programs whose target this kernel lacks, and whether it has _SIGNAL_TASK."""
    try:
        types = libbpf.KernelTypes(library)
    except libbpf.LoadError as error:  # every user may read it
        raise BpfUnavailable(f"{error}.", fix=_HAVE_TYPES) from None
    try:
        missing = {}
        for name, program in PROGRAMS.items():
            if program.btf_name and not types.has(*program.btf_name):
                missing[name] = f"this kernel has no {program.target}"
            elif program.needless_with and types.has(program.needless_with, "function"):
                missing[name] = f"this kernel has {program.needless_with}, which makes it needless"
        return missing, types.has(_SIGNAL_TASK, "function")
    finally:
        types.close()


def _refused(programs: Mapping[str, str], wanted: set[str]) -> dict[str, str]:
    """Return which programs to leave out after the kernel refused some, and why.

    A kernel that forbids to patch one function (EPERM with every capability) forbids it for all.
    """
    out = dict(programs)
    for name, why in programs.items():
        if PROGRAMS[name].is_trampoline and why.startswith(os.strerror(errno.EPERM)):
            reason = f"the kernel refuses trampolines ({why})"
            out.update({each: reason for each in wanted if PROGRAMS[each].is_trampoline})
    return out


def _unavailable(reason: str) -> BpfUnavailable:
    rights = _rights()
    if "CAP_SYS_ADMIN" in rights or {"CAP_BPF", "CAP_PERFMON"} <= rights:
        return BpfUnavailable(f"The kernel does not load our BPF programs ({reason}).")
    return BpfUnavailable(
        "This process may not load BPF programs that look at the kernel.", fix=_GIVE_RIGHTS
    )


def _rights() -> frozenset[str]:
    if sys.platform != "linux":
        return frozenset()
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        held = next((int(line.split()[1], 16) for line in file if line.startswith("CapEff:")), 0)
    return frozenset(name for name, bit in _CAPABILITIES.items() if held >> bit & 1)
