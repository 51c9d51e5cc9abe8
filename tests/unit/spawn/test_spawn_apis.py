"""Each way to start a process places it in the call's cgroup, in each spawn mode."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from agentcgroup.cgroup import Cgroup
from tests.cases.spawn import CASES, where
from tests.support.spawn_modes import MODES, run_python

CASES_FILE = str(Path(__file__).parents[2] / "cases" / "spawn.py")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", CASES)
def test_child_is_born_in_the_calls_cgroup(name: str, mode: str, box: Cgroup) -> None:
    done = run_python(mode, "-W", "error::ResourceWarning", CASES_FILE, name, box.path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["mode"] == mode
    assert report["seen"], "no child reported its cgroup"
    assert {os.path.basename(line) for line in report["seen"]} == {os.path.basename(box.path)}
    assert report["begun"] == len(report["ended"]) > 0
    if "forkserver" in name:
        assert set(report["daemons"]) == {"fork server", "resource tracker"}
    assert set(report["daemons"].values()) <= {where()}
