"""What tests on a real kernel ask of the run's cgroups."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from agentcgroup import Session
from agentcgroup.cgroup import Cgroup

MiB = 1 << 20


def run_directories(base: str) -> list[str]:
    """Return the names of the runs below a base."""
    return [name for name in os.listdir(base) if name.startswith("agentcgroup.run-")]


def processes_below(session: Session) -> list[int]:
    """Return every process in the run's cgroups, once what was to be cleared away is."""
    _ = session.records
    run = session.branch()
    assert run is not None
    return list(_processes(run.cgroup.path))


def _processes(path: str) -> Iterator[int]:
    with contextlib.closing(Cgroup.open(path)) as cgroup:
        yield from cgroup.procs()
        for name in cgroup.children():
            yield from _processes(f"{path}/{name}")
