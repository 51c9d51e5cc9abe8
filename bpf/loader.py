"""Which programs run here: those whose target the kernel has and that it lets us load.

First the kernel's own type information tells what is there at all. Then all that is wanted is
loaded together; whatever the kernel refuses is left out, by its name and with its reason, and the
rest is tried again. Nothing asks for a version. Where libbpf is missing, `skeleton` loads those
that run everywhere.
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

__all__ = ["Facts", "LoadedMonitor", "facts", "load"]

_FOLDER: Final = os.path.dirname(__file__)
#: What was built for kernels that have the function, and for those that have not.
_SIGNAL_TASK: Final = "bpf_send_signal_task"
_WITH_IT: Final = "monitor-signal"
_WITHOUT_IT: Final = "monitor"
_BTF: Final = "/sys/kernel/btf/vmlinux"

#: What asks less than everything: bits of linux/capability.h.
_CAPABILITIES: Final = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39}
_INSTALL_LIBBPF: Final = "package libbpf1 on Debian and Ubuntu, libbpf on Fedora and Arch"
_HAVE_TYPES: Final = "boot a kernel that was built with CONFIG_DEBUG_INFO_BTF"
_GIVE_RIGHTS: Final = "run as root, or with the capabilities CAP_BPF and CAP_PERFMON"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What BPF can do for us on this machine, in this process.

    Attributes:
        libbpf: version of the libbpf that is installed, None without one.
        btf: whether the kernel carries its type information.
        built: whether this installation has the compiled programs.
        loader: what loads the programs, None when nothing can.
        programs: None for each that loads here, else why it does not.
        rights: the capabilities that matter here and that this process has.
        problem: why there can be no monitor, None when there can.
        fix: what would change that, None when nothing here can.
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
class LoadedMonitor:
    """File descriptors by name, and why the programs that are not there are not."""

    programs: dict[str, int]
    maps: dict[str, int]
    off: dict[str, str]
    loader: Literal["libbpf", "skeleton"]

    def close(self) -> None:
        """Let go of everything; what nobody holds, the kernel unloads."""
        for fd in (*self.programs.values(), *self.maps.values()):
            os.close(fd)


@functools.cache
def facts() -> Facts:
    """Find out once, by loading everything and letting it go again; attaches nothing."""
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
    return Facts(
        libbpf=libbpf.version(),
        btf=os.path.exists(_BTF),
        built=os.path.exists(_path(_WITHOUT_IT, ".bpf.o")),
        loader=loader,
        programs=MappingProxyType(programs),
        rights=_rights(),
        problem=problem,
        fix=fix,
    )


def load(detail: Detail) -> LoadedMonitor:
    """Load what can be loaded of the programs that a detail asks for.

    Raises:
        BpfUnavailable: without the programs that are always needed there is no monitor.
    """
    if sys.platform != "linux":
        raise BpfUnavailable("BPF is a part of Linux.")
    library = libbpf.libbpf()
    off = _not_wanted(detail)
    try:
        return _by_skeleton(off) if library is None else _by_libbpf(library, off)
    except OSError as error:
        raise _unavailable(str(error)) from error


def _by_libbpf(library: ctypes.CDLL, off: dict[str, str]) -> LoadedMonitor:
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
    return LoadedMonitor(programs=loaded.programs, maps=loaded.maps, off=off, loader="libbpf")


def _by_skeleton(off: dict[str, str]) -> LoadedMonitor:
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
    return LoadedMonitor(programs=loaded.programs, maps=loaded.maps, off=off, loader="skeleton")


def _first_skeleton() -> libbpf.Loaded:
    """Load the one that the kernel takes: it alone knows here what it has."""
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
    """Say which programs are not even to be tried."""
    off = {}
    may_attach_packets = not _rights().isdisjoint({"CAP_NET_ADMIN", "CAP_SYS_ADMIN"})
    for name, program in PROGRAMS.items():
        if program.full and detail != "full":
            off[name] = "runs in full detail only"
        elif program.hook == "cgroup_skb" and not may_attach_packets:
            off[name] = "needs CAP_NET_ADMIN to be attached"  # it loads without
    return off


def _compared(library: ctypes.CDLL) -> tuple[dict[str, str], bool]:
    """Say of which programs this kernel has not what they sit on; and if it has _SIGNAL_TASK."""
    try:
        types = libbpf.KernelTypes(library)
    except libbpf.LoadError as error:  # not for want of rights: everybody may read it
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
    """Say what to leave out after some programs were refused.

    Where a kernel forbids patching its functions (EPERM with every right), it does so for all.
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
