"""`agentcgroup exec` and `doctor` where every limit can be enforced."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

_AGENTCGROUP = [sys.executable, "-m", "agentcgroup"]
#: Their seams are the same on every kernel, and to import them takes minutes in a machine.
_WITHOUT_FRAMEWORKS = """
from agentcgroup import cli
from agentcgroup.frameworks import registry

registry.FRAMEWORKS = {}
cli.main()
"""
_HUNGRY = [sys.executable, "-ISc", "x = bytearray(500 << 20); print('eaten')"]


def _run(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return _start([*_AGENTCGROUP, *words], folder)


def _start(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "agentcgroup.toml").write_text('mode = "enforce"\n')
    return subprocess.run(command, capture_output=True, text=True, cwd=folder)


def test_over_its_memory_is_137(tmp_path: Path) -> None:
    """Also behind a shell that would go on; the record has the peak."""
    done = _run("exec", "--record", "--memory-max", "64M", "--", *_HUNGRY, folder=tmp_path)
    assert (done.returncode, done.stdout) == (137, "")
    *_, told, record = done.stderr.splitlines()
    assert "reached the memory limit of 64 MiB (memory_max)" in told
    found = json.loads(record)
    assert (found["outcome"], found["reason"]) == ("oom", "memory_max")
    assert 60 << 20 < found["memory_peak_bytes"] <= 65 << 20


_FOUR_CHILDREN = """
import subprocess, sys
children = []
for _ in range(4):
    try:
        children.append(subprocess.Popen(["sleep", "1"]))
    except BlockingIOError:
        pass
for child in children:
    child.wait()
sys.exit(len(children) + 1)
"""


def test_a_command_that_met_pids_max_and_went_on_keeps_its_status(tmp_path: Path) -> None:
    """The limit is told; nothing was killed."""
    command = [sys.executable, "-ISc", _FOUR_CHILDREN]
    done = _run("exec", "--pids-max", "3", "--", *command, folder=tmp_path)
    assert "its limit of 3 processes and threads (pids_max)" in done.stderr
    assert done.returncode == 3


@pytest.mark.parametrize("status", [0, 5])
def test_within_its_limits_nothing_is_said(tmp_path: Path, status: int) -> None:
    done = _run("exec", "--memory-max", "64M", "sh", "-c", f"exit {status}", folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")


def test_doctor_finds_everything_enforced(tmp_path: Path) -> None:
    """And ends with 0: this machine has all five controllers."""
    done = _start([sys.executable, "-c", _WITHOUT_FRAMEWORKS, "doctor", "--json"], tmp_path)
    report = json.loads(done.stdout)
    limits = {one["what"]: one["state"] for one in report["findings"] if "limits" in one["what"]}
    assert limits == {
        f"limits of {name}": "yes" for name in ("memory", "cpu", "pids", "io", "cpuset")
    }
    assert report["complete"], report
    assert done.returncode == 0
