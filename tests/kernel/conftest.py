"""Cgroups with every controller, and runs that leave nothing behind."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import agentcgroup
from agentcgroup import Session
from agentcgroup.cgroup import Cgroup
from tests.kernel.support import run_directories

CONTROLLERS = frozenset({"cpu", "cpuset", "io", "memory", "pids"})


@pytest.fixture
def branch() -> Iterator[Cgroup]:
    """Give an empty cgroup whose children have every controller, removed afterwards."""
    name = f"agentcgroup-test-{os.getpid()}-{secrets.token_hex(4)}"
    with contextlib.closing(Cgroup.open("/sys/fs/cgroup")) as root:
        assert root.enable(CONTROLLERS) >= CONTROLLERS, "these tests need every controller in v2"
        cgroup = root.child(name)
    try:
        assert cgroup.enable(CONTROLLERS) == CONTROLLERS
        yield cgroup
    finally:
        cgroup.remove(20)
        cgroup.close()


@pytest.fixture
def box(branch: Cgroup) -> Iterator[Cgroup]:
    """Give an empty cgroup that has every controller."""
    with contextlib.closing(branch.child("box")) as cgroup:
        yield cgroup


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
