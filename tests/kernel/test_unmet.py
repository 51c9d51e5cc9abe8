"""One limit that the kernel refuses is one unmet limit; a call without a cgroup does not run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import agentcgroup
from agentcgroup import CgroupUnavailable, LimitExceeded, Session
from tests.kernel.support import MiB

#: No machine of the lab has this device, or a processor of this number.
REFUSED: dict[str, Any] = {"io_max": {"250:250": {"rbps": 1_000_000}}, "cpuset_cpus": "77"}
GOOD = {"memory_max": "64M", "pids_max": 17}


def limits_inside() -> tuple[str, str]:
    """Return memory.max and pids.max of the cgroup of a process of the call."""
    done = subprocess.run(["cat", "/proc/self/cgroup"], capture_output=True, text=True, check=True)
    folder = Path("/sys/fs/cgroup") / done.stdout.strip().rpartition(":")[2].lstrip("/")
    return (folder / "memory.max").read_text().strip(), (folder / "pids.max").read_text().strip()


@pytest.mark.parametrize("isolation", ["inline", "process"])
def test_the_other_limits_of_a_call_hold(
    registered: Callable[..., Session], caplog: pytest.LogCaptureFixture, isolation: str
) -> None:
    session = registered(mode="auto", limits={"call": {**GOOD, **REFUSED}})
    inside = agentcgroup.isolate("inside", isolation=isolation)(limits_inside)
    for _ in range(2):
        assert inside() == (str(64 * MiB), "17")
    for record in session.records:
        assert sorted(record.unmet) == ["cpuset_cpus", "io_max"]
        assert record.outcome == "ok"
    for key in REFUSED:
        assert caplog.text.count(f"the kernel refuses {key}") == 1


def test_those_of_the_agent_and_of_the_run_are_named(registered: Callable[..., Session]) -> None:
    session = registered(
        mode="auto",
        limits={
            "run": {**GOOD, "cpuset_cpus": "77"},
            "agent": {**GOOD, "io_max": REFUSED["io_max"]},
        },
    )
    with agentcgroup.call("inside"):
        limits_inside()
    (record,) = session.records
    assert sorted(record.unmet) == ["agent.io_max", "run.cpuset_cpus"]
    run = session._services.cgroups.branch()
    assert run is not None
    assert Path(run.cgroup.path, "memory.max").read_text() == f"{64 * MiB}\n"
    assert record.cgroup is not None
    agent = os.path.dirname(record.cgroup)
    assert Path(agent, "pids.max").read_text() == "17\n"


def test_a_call_inside_another_of_its_agent_names_the_same(
    registered: Callable[..., Session],
) -> None:
    agent = {**GOOD, "io_max": REFUSED["io_max"]}
    session = registered(mode="auto", limits={"agent": agent})
    with agentcgroup.call("outer"), agentcgroup.call("inner"):
        limits_inside()
    assert [record.unmet for record in session.records] == [("agent.io_max",)] * 2


def test_a_limit_of_further_files_is_one_of_them(registered: Callable[..., Session]) -> None:
    unified = {"cpuset.cpus.partition": "nonsense"}
    session = registered(mode="auto", limits={"call": {**GOOD, "unified": unified}})
    with agentcgroup.call("inside"):
        assert limits_inside() == (str(64 * MiB), "17")
    assert session.records[0].unmet == ("cpuset.cpus.partition",)


def test_the_sentence_names_what_did_not_hold(registered: Callable[..., Session]) -> None:
    registered(mode="auto", limits={"call": {**GOOD, **REFUSED}})
    with pytest.raises(LimitExceeded) as caught:
        eats()
    _, _, names = str(caught.value).partition("Limits that this machine does not take: ")
    assert sorted(names.rstrip(".").split(", ")) == ["cpuset_cpus", "io_max"]


@agentcgroup.isolate("eats")
def eats() -> None:
    subprocess.run(["python3", "-c", "b = b'x' * (200 << 20)"], check=True)


def test_mode_enforce_runs_no_call_without_all_limits(
    registered: Callable[..., Session], tmp_path: Path
) -> None:
    session = registered(mode="enforce", on_uncontained="run", limits={"call": {**GOOD, **REFUSED}})
    with pytest.raises((LimitExceeded, CgroupUnavailable)), agentcgroup.call("refused"):
        subprocess.run(["touch", tmp_path / "written"], check=True)
    assert not (tmp_path / "written").exists()
    assert session.records[0].outcome == "rejected"
