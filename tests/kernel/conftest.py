"""What every test on a real kernel needs: a session, and proof that nothing is left behind."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import agentcgroup
from agentcgroup import Session
from agentcgroup.cgroup import Cgroup

MiB = 1 << 20


def run_directories(base: str) -> list[str]:
    """Return the runs below a base."""
    return [name for name in os.listdir(base) if name.startswith("agentcgroup.run-")]


@pytest.fixture
def registered() -> Iterator[Callable[..., Session]]:
    """Register a framework with a config; afterwards nothing of the run may be left."""
    sessions: list[Session] = []

    def register(framework: str = "langchain", **config: Any) -> Session:
        session = agentcgroup.register(framework, config={"mode": "enforce", **config})
        sessions.append(session)
        return session

    yield register
    for session in sessions:
        base = session.place.base
        agentcgroup.unregister()
        assert base is not None
        if os.path.exists(base):
            assert run_directories(base) == []


def processes_below(session: Session) -> list[int]:
    """Return every process in the run's cgroups; the janitor's work is waited for."""
    _ = session.records
    run = session.branch()
    assert run is not None

    def below(path: str) -> Iterator[int]:
        cgroup = Cgroup.open(path)
        yield from cgroup.procs()
        for name in cgroup.children():
            yield from below(f"{path}/{name}")
        cgroup.close()

    return list(below(run.cgroup.path))
