"""The programs of monitor.bpf.c: the hook of each, and the counters that it fills.

A counter is filled only where all its programs run; else it is absent, which is not zero.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

__all__ = ["EVERYWHERE", "PROGRAMS", "Detail", "Program", "absent_counters"]

Detail = Literal["default", "full"]
_Hook = Literal["tp_btf", "iter", "fentry", "fexit", "cgroup_skb"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One program.

    Attributes:
        hook: how it is attached.
        target: the tracepoint, the function or the direction.
        fills: counters that need it.
        needed: without it there is no monitor.
        full: runs in full detail only, since it costs processes outside of calls too.
        unless: a better program for the same counters; this one runs only where that does not.
        needless_with: a function of the kernel that makes the program needless.
    """

    hook: _Hook
    target: str
    fills: tuple[str, ...] = ()
    needed: bool = False
    full: bool = False
    unless: str | None = None
    needless_with: str | None = None

    @property
    def is_trampoline(self) -> bool:
        """Whether the kernel has to patch a function for it, which some kernels never do."""
        return self.hook in ("fentry", "fexit")

    @property
    def btf_name(self) -> tuple[str, Literal["typedef", "function"]] | None:
        """Name and kind of the type that the kernel's BTF must have for it; None for no type."""
        if self.hook == "tp_btf":
            return f"btf_trace_{self.target}", "typedef"
        return (self.target, "function") if self.is_trampoline else None


def _life(hook: _Hook, target: str) -> Program:
    return Program(hook=hook, target=target, needed=True)


_RECLAIM = ("reclaim_ns",)
_HIGH = ("memory_high_ns",)
_BLOCK = ("block_read_bytes", "block_write_bytes")

#: By the name of the function in monitor.bpf.c.
PROGRAMS: Final[Mapping[str, Program]] = MappingProxyType(
    {
        "on_fork": _life("tp_btf", "sched_process_fork"),
        "on_exec": _life("tp_btf", "sched_process_exec"),
        "on_exit": _life("tp_btf", "sched_process_exit"),
        "on_free": _life("tp_btf", "sched_process_free"),
        "on_mkdir": _life("tp_btf", "cgroup_mkdir"),
        "on_rmdir": _life("tp_btf", "cgroup_rmdir"),
        "on_attach": _life("tp_btf", "cgroup_attach_task"),
        "introduce": _life("iter", "task"),
        "living": _life("iter", "task"),
        "stop_newborn": Program(
            hook="fexit", target="schedule_tail", needless_with="bpf_send_signal_task"
        ),
        "on_oom": Program(hook="fentry", target="__oom_kill_process", fills=("oom_kills",)),
        "on_oom_mark": Program(
            hook="tp_btf", target="mark_victim", fills=("oom_kills",), unless="on_oom"
        ),
        "memcg_reclaim": Program(
            hook="tp_btf", target="mm_vmscan_memcg_reclaim_begin", fills=_RECLAIM
        ),
        "memcg_reclaimed": Program(
            hook="tp_btf", target="mm_vmscan_memcg_reclaim_end", fills=_RECLAIM
        ),
        "direct_reclaim": Program(
            hook="tp_btf", target="mm_vmscan_direct_reclaim_begin", fills=_RECLAIM
        ),
        "direct_reclaimed": Program(
            hook="tp_btf", target="mm_vmscan_direct_reclaim_end", fills=_RECLAIM
        ),
        "high": Program(
            hook="fentry", target="mem_cgroup_handle_over_high", fills=_HIGH, unless="high_new"
        ),
        "high_over": Program(
            hook="fexit", target="mem_cgroup_handle_over_high", fills=_HIGH, unless="high_over_new"
        ),
        "high_new": Program(hook="fentry", target="__mem_cgroup_handle_over_high", fills=_HIGH),
        "high_over_new": Program(hook="fexit", target="__mem_cgroup_handle_over_high", fills=_HIGH),
        "on_bio": Program(hook="tp_btf", target="block_bio_queue", fills=_BLOCK),
        "on_charge": Program(
            hook="fexit", target="try_charge_memcg", fills=("memory_charged_bytes",), full=True
        ),
        "on_open": Program(
            hook="fentry", target="security_file_open", fills=("files_opened",), full=True
        ),
        "on_ingress": Program(
            hook="cgroup_skb", target="ingress", fills=("net_rx_bytes",), full=True
        ),
        "on_egress": Program(
            hook="cgroup_skb", target="egress", fills=("net_tx_bytes",), full=True
        ),
        "on_switch": Program(
            hook="tp_btf", target="sched_switch", fills=("run_queue_waits",), full=True
        ),
    }
)


#: Programs that every kernel from 6.1 on loads, also one that refuses trampolines.
EVERYWHERE: Final = frozenset(
    name
    for name, program in PROGRAMS.items()
    if not program.is_trampoline and name != "on_oom_mark"  # its argument was a pid before 6.9
)


def absent_counters(running: Collection[str]) -> frozenset[str]:
    """Return the counters that no program fills when only these programs run.

    A counter needs all of its programs, but only one of two that replace each other (`unless`).
    """
    absent: set[str] = set()
    for name, program in PROGRAMS.items():
        stands_in = [
            other
            for other, its in PROGRAMS.items()
            if other == program.unless or its.unless == name
        ]
        if name not in running and not any(other in running for other in stands_in):
            absent.update(program.fills)
    return frozenset(absent)
