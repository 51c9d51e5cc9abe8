"""A cgroup with every controller, to be tried to its limits."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator

import pytest
from agentcgroup.cgroup import Cgroup

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
