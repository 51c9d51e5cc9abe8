"""The ground that the other kernel tests stand on: cgroup v2 that limits for real."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import until

CONTROLLERS = {"cpu", "cpuset", "io", "memory", "pids"}


@pytest.fixture
def base() -> Path:
    """Where cgroups can be made: the root, or beside our own cgroup where a subtree is ours."""
    own = Path("/proc/self/cgroup").read_text().removeprefix("0::").strip()
    return Path("/sys/fs/cgroup") / Path(own).parent.relative_to("/")


@pytest.fixture
def group(base: Path) -> Iterator[Path]:
    """A fresh cgroup, made by hand."""
    path = base / f"lab-test-{os.getpid()}"
    path.mkdir()
    yield path

    def removed() -> bool:
        """A process that was waited for may be inside for a moment more (since 7.0)."""
        with contextlib.suppress(OSError):
            path.rmdir()
        return not path.exists()

    assert until(removed)


def in_group(group: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run Python code as a child that enters the cgroup before it executes."""
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", code],
        preexec_fn=lambda: (group / "cgroup.procs").write_text("0"),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def counters(file: Path) -> dict[str, int]:
    return {name: int(count) for name, count in map(str.split, file.read_text().splitlines())}


def test_cgroup_v2_offers_every_controller(base: Path) -> None:
    assert set((base / "cgroup.subtree_control").read_text().split()) >= CONTROLLERS


def test_a_new_cgroup_has_the_controllers_files(group: Path) -> None:
    for file in ("memory.max", "memory.high", "cpu.max", "pids.max", "io.max", "memory.pressure"):
        assert (group / file).exists(), file


def test_pressure_is_accounted(group: Path) -> None:
    assert (group / "memory.pressure").read_text().startswith("some avg10=")


def test_a_child_above_memory_max_is_killed_and_we_are_not(group: Path) -> None:
    (group / "memory.max").write_text(str(32 << 20))
    child = in_group(group, "b'x' * (128 << 20)")
    assert child.returncode == -signal.SIGKILL
    assert counters(group / "memory.events")["oom_kill"] == 1


def test_a_child_below_memory_max_lives(group: Path) -> None:
    (group / "memory.max").write_text(str(64 << 20))
    child = in_group(group, "b'x' * (16 << 20)")
    assert child.returncode == 0, child.stderr
    assert counters(group / "memory.events")["oom_kill"] == 0


def test_there_is_no_swap_to_blur_memory_limits() -> None:
    assert len(Path("/proc/swaps").read_text().splitlines()) == 1
