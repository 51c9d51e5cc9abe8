"""A cgroup to work in, on whatever cgroup v2 this machine has, and a folder to start from."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentcgroup.cgroup import Cgroup


def cgroup2_mount() -> str:
    """Return the first cgroup v2 mount point of this machine."""
    with open("/proc/self/mounts", encoding="utf-8") as mounts:
        for line in mounts:
            _, point, kind, *_ = line.split()
            if kind == "cgroup2":
                return point
    raise AssertionError("this machine has no cgroup v2 mount, and the cgroup tests need one")


@pytest.fixture
def box() -> Iterator[Cgroup]:
    """Give an empty cgroup of its own, removed with all that is in it afterwards."""
    with contextlib.closing(Cgroup.open(cgroup2_mount())) as mount:
        cgroup = mount.child(f"agentcgroup-test-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        yield cgroup
    finally:
        cgroup.remove()
        cgroup.close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a working directory with nothing in it, and no configuration of a user's."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("AGENTCGROUP_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    return folder
