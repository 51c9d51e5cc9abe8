"""Workers that are born too late, on each kernel: some kill what is born in a cgroup once killed.

Those that fixed the race of fork and cgroup.kill by `kill_seq` (kernel/cgroup/cgroup.c) compared it
with that of the parent's cgroup for a while, others do not.
"""

from __future__ import annotations

from tests.unit.isolation.test_warm_workers import (
    session,
    start,
    test_a_worker_that_is_born_after_its_calls_end_runs_nothing,
)

__all__ = [
    "session",
    "start",
    "test_a_worker_that_is_born_after_its_calls_end_runs_nothing",
]
