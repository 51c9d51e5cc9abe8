"""The counters of a cgroup, and the two text forms of the kernel's files.

Every counter is optional: None means that this kernel or this cgroup lacks it, which is not zero.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Events", "Usage", "flat", "nested"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The usage of one cgroup since it was made, with dead processes and descendants.

    Attributes:
        memory_peak_bytes: largest memory.current seen (memory.peak, since 5.19).
        cpu_usage_s: CPU time in seconds (cpu.stat usage_usec); needs no controller.
        throttled_s: seconds in which cpu.max throttled the cgroup (cpu.stat throttled_usec).
        throttled_periods: periods with throttling (cpu.stat nr_throttled).
        pids_peak: most tasks, threads included, at one time (pids.peak, since 6.1).
        io_read_bytes: bytes read from block devices, all devices together (io.stat).
        io_write_bytes: bytes written to block devices, all devices together (io.stat).
    """

    memory_peak_bytes: int | None = None
    cpu_usage_s: float | None = None
    throttled_s: float | None = None
    throttled_periods: int | None = None
    pids_peak: int | None = None
    io_read_bytes: int | None = None
    io_write_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """The events of one cgroup since it was made.

    A counter above 0 is reliable, its value is not: under memory.oom.group the kernel may count the
    kill of one process twice.

    Attributes:
        oom: times an allocation failed for this cgroup's limit or a descendant's.
        oom_kill: processes of this subtree killed by any OOM killer, the machine's own included.
        oom_local: `oom` of this cgroup's own limit only (memory.events.local, since 5.2).
        oom_kill_local: `oom_kill` of processes right in this cgroup, not below it.
        memory_high: times processes were throttled for being above memory.high.
        memory_max: times usage was about to exceed memory.max.
        pids_max: forks refused. Since 6.11: for this cgroup's own pids.max (pids.events.local);
            before: in this cgroup, whichever ancestor's pids.max it was (pids.events).
    """

    oom: int | None = None
    oom_kill: int | None = None
    oom_local: int | None = None
    oom_kill_local: int | None = None
    memory_high: int | None = None
    memory_max: int | None = None
    pids_max: int | None = None

    @property
    def out_of_memory(self) -> bool:
        """Whether a process was killed for this cgroup's limit, one above it, or the machine's.

        Not for a limit of a cgroup below, which a tool has set there itself: such a kill counts in
        `oom_kill`, and its cause in `oom`. Where a limit below was reached, a kill of processes
        below alone is taken to be its work.
        """
        if not self.oom_kill:
            return False
        if self.oom_local is None or self.oom_local or self.oom_kill_local:
            return True
        return not self.oom


def flat(text: str) -> dict[str, int]:
    """Parse a "flat keyed" file: one `KEY VALUE` a line. Other lines are skipped."""
    values: dict[str, int] = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if value.isdecimal():
            values[key] = int(value)
    return values


def nested(text: str) -> dict[str, dict[str, str]]:
    """Parse a "nested keyed" file: `KEY SUB=VALUE SUB=VALUE ...` a line."""
    values: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        key, *pairs = line.split()
        values[key] = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    return values
