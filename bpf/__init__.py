"""BPF programs that count and report what the processes of a call do, and their loader.

The build of the package compiles monitor.bpf.c (``setup.py``), once for all kernels: the offset of
a field in the running kernel is found when the programs are loaded (CO-RE). `loader` loads, by
libbpf, the programs whose hooks this kernel has and that it allows. `attached` attaches them, maps
cgroups to calls (`slots`), and reads counters (`layout`) and events (`ring`). Nothing is pinned:
the kernel unloads the programs when no process has their descriptors.

A program that does not run here is never replaced by an estimate: its counters are None, and
`AttachedPrograms.programs` and `bpf_support` have its name and the reason.
"""

from __future__ import annotations

from agentcgroup.bpf.attached import AttachedPrograms
from agentcgroup.bpf.counters_view import CountersView
from agentcgroup.bpf.layout import BpfEvent, Counters
from agentcgroup.bpf.loader import BpfSupport, bpf_support
from agentcgroup.bpf.slots import Announcer, Slots
from agentcgroup.errors import BpfUnavailable

__all__ = [
    "Announcer",
    "AttachedPrograms",
    "BpfEvent",
    "BpfSupport",
    "BpfUnavailable",
    "Counters",
    "CountersView",
    "Slots",
    "bpf_support",
]
