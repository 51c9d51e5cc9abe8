"""CPython's own tests of its process functions pass while every process is placed.

They run on this Python, and on those that $AGENTCGROUP_PYTHONS names (paths or names, separated by
':'), which must be able to import agentcgroup.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from agentcgroup.cgroup import Cgroup

DRIVER = os.path.join(os.path.dirname(__file__), "cpython_suites.py")
SUITES = ("test_subprocess", "test_posix", "test_os", "test_popen")
PYTHONS = [sys.executable, *filter(None, os.environ.get("AGENTCGROUP_PYTHONS", "").split(":"))]


def run(python: str, cgroup: str, *names: str) -> dict[str, Any]:
    done = subprocess.run(
        [python, DRIVER, cgroup, *names], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    report["log"] = done.stderr
    return report


def require_suites(python: str) -> None:
    """Skip on a Python without its test suite; the message says how to install it."""
    names = ", ".join(f"test.{name}" for name in SUITES)
    done = subprocess.run([python, "-c", f"import {names}"], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(
            f"NOT CHECKED: {python} has no CPython test suite (on Debian and Ubuntu:"
            f" apt-get install libpython3.X-testsuite): {done.stderr.strip().splitlines()[-1]}"
        )


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("python", PYTHONS)
def test_placed_processes_fail_no_test_of_cpython(python: str, box: Cgroup) -> None:
    require_suites(python)
    plain, placed = run(python, "-", *SUITES), run(python, box.path, *SUITES)
    new = sorted(set(placed["failed"]) - set(plain["failed"]))
    if new:  # some measure time and fail only on a busy machine: run these alone
        names = {name.split()[0].removeprefix("test.") for name in new}  # no subtest's arguments
        again = run(python, box.path, *names)
        assert again["run"] == len(names)
        assert again["failed"] == [], again["log"][-8000:]
    assert placed["run"] == plain["run"] > 700
    assert placed["placed"] > 2000
