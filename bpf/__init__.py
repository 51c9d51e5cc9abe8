"""The kernel's eyes: BPF programs that see what every call really does, and their loader.

Theory of operation
-------------------
monitor.bpf.c is compiled when the package is built (``setup.py``), once for all kernels: where a
field lies in the running one is found as the programs are loaded (CO-RE). `loader` loads those
that this kernel has the hooks for and lets us have, by libbpf; `monitor` attaches them, tells
them by which cgroup a call is known, and reads what they count (`layout`) and what they report
(`ring`). Nothing is pinned: the programs are there as long as a process holds them.

What a program cannot do here is never guessed: its counters are None, `Monitor.programs` and
`facts` name it and say why.
"""

from __future__ import annotations

from agentcgroup.bpf.layout import Counters, Event
from agentcgroup.bpf.loader import Facts, facts
from agentcgroup.bpf.monitor import Announcer, CountersView, Monitor, Slots
from agentcgroup.errors import BpfUnavailable

__all__ = [
    "Announcer",
    "BpfUnavailable",
    "Counters",
    "CountersView",
    "Event",
    "Facts",
    "Monitor",
    "Slots",
    "facts",
]
