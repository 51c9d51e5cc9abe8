"""The counters of all calls, read by any process that has a descriptor of them."""

from __future__ import annotations

from collections.abc import Mapping

from agentcgroup.bpf import bpf_syscall, layout
from agentcgroup.bpf.layout import Counters
from agentcgroup.bpf.programs import absent_counters

__all__ = ["CountersView", "absent_on_kernel"]


class CountersView:
    """The counters of all calls, read from the kernel's memory without a system call.

    A slot that was never given out, or has been given back, reads as None.
    """

    def __init__(self, fd: int, programs: Mapping[str, str | None], features: int) -> None:
        """Map the counters.

        Args:
            fd: `AttachedPrograms.counters_fd`, or one received from the process that holds it.
            programs: `AttachedPrograms.programs`, so that a counter without a program reads as
                None and not as zero.
            features: `AttachedPrograms.features`.
        """
        self._map = bpf_syscall.map_shared(fd, layout.CALLS_BYTES, writable=False)
        self._absent = absent_on_kernel(programs, features)

    def read(self, slot: int) -> Counters | None:
        """Return what a call has used, None if the slot is not in use (any more)."""
        return layout.decode_call(self._map, slot, self._absent)

    def close(self) -> None:
        """Unmap the counters."""
        self._map.close()


def absent_on_kernel(programs: Mapping[str, str | None], features: int) -> frozenset[str]:
    """Return the counters that no program fills on the running kernel.

    Args:
        programs: None for each program that is attached, else why it is off.
        features: what this kernel keeps of a task, bits of enum feature in monitor.h.
    """
    absent = set(absent_counters([name for name, off in programs.items() if off is None]))
    if not features & layout.HAS_RUN_DELAY:
        absent |= {"run_delay_ns", "run_queue_waits"}
    if not features & layout.HAS_IO_BYTES:
        absent |= {"io_read_bytes", "io_write_bytes"}
    return frozenset(absent)
