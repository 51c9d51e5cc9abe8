"""Cgroups with every controller, and runs that leave nothing behind."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator

import pytest

from agentcgroup import Session
from agentcgroup.cgroup import Cgroup
from tests.kernel.support import registering
from tests.support.processes import SOON

#: BCC compiles against the headers of the kernel; the lab has those of `kernels.WITH_HEADERS`.
HEADERS = "BCC_KERNEL_SOURCE" in os.environ or os.path.exists(f"/lib/modules/{os.uname()[2]}/build")
collect_ignore = [] if HEADERS else ["test_bcc_monitor.py"]

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
        cgroup.remove(SOON)
        cgroup.close()


@pytest.fixture
def box(branch: Cgroup) -> Iterator[Cgroup]:
    """Give an empty cgroup that has every controller."""
    with contextlib.closing(branch.child("box")) as cgroup:
        yield cgroup


@pytest.fixture
def registered() -> Iterator[Callable[..., Session]]:
    """Register a framework with a config; afterwards nothing of the run may be left."""
    with registering() as register:
        yield register
