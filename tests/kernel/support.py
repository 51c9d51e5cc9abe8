"""What tests on a real kernel ask of the run's cgroups."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import agentcgroup
from agentcgroup import Session
from agentcgroup.cgroup import Cgroup

MiB = 1 << 20


@contextlib.contextmanager
def registering() -> Iterator[Callable[..., Session]]:
    """Register a framework with a config; afterwards nothing of the run may be left."""
    sessions: list[Session] = []

    def register(framework: str = "langchain", **config: Any) -> Session:
        session = agentcgroup.register(framework, config={"mode": "enforce", **config})
        sessions.append(session)
        return session

    yield register
    for session in sessions:
        base = session._services.cgroups.place.base
        agentcgroup.unregister()
        assert base is not None
        if os.path.exists(base):
            assert run_directories(base) == []


def run_directories(base: str) -> list[str]:
    """Return the names of the runs below a base."""
    return [name for name in os.listdir(base) if name.startswith("agentcgroup.run-")]


def processes_below(session: Session) -> list[int]:
    """Return every process in the run's cgroups, once what was to be cleared away is."""
    _ = session.records
    run = session._services.cgroups.branch()
    assert run is not None
    return list(_processes(run.cgroup.path))


def _processes(path: str) -> Iterator[int]:
    with contextlib.closing(Cgroup.open(path)) as cgroup:
        yield from cgroup.procs()
        for name in cgroup.children():
            yield from _processes(f"{path}/{name}")


def record_tells_what_ran(session: Session) -> None:
    """The monitor knows the processes of a call, their programs, and how each has ended."""
    with agentcgroup.call("tool"):
        subprocess.run(["bash", "-c", "sleep 0.5 & sh -c 'sleep 0.5; kill -9 $$'; wait; exit 3"])
    record = session.records[-1]
    assert (record.monitor, record.processes_started, record.escapes) == (
        session._services.monitor.source,
        4,
        0,
    )
    assert record.programs is not None
    assert sorted((one.exit_code, one.signal) for one in record.programs if one.signal) == [
        (None, 9)
    ]
    assert sorted(one.exit_code for one in record.programs if one.signal is None) == [0, 0, 3]
