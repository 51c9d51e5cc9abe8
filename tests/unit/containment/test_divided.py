"""A tool that divides its call's cgroup: one call, one subtree, ended and removed whole."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import agentcgroup
from agentcgroup import LimitExceeded, Session
from tests.support.processes import alive, ended
from tests.support.spawn_modes import MODES, run_python
from tests.unit.conftest import cgroup2_mount

_DIVIDE = str(Path(__file__).parents[2] / "cases" / "divide.py")
_WAYS = ("controllers", "moved", "deep", "threaded")


def _a_controller() -> dict[str, Any]:
    """Return a limit of a controller that this machine has, so that a call's cgroup has it too."""
    controllers = Path(cgroup2_mount(), "cgroup.controllers").read_text().split()
    if "pids" in controllers:
        return {"pids_max": 1000}
    assert "hugetlb" in controllers, "cgroup v2 has no controller here, so nothing can be divided"
    size = next(Path("/sys/kernel/mm/hugepages").iterdir()).name.removeprefix("hugepages-")
    megabytes = int(size.removesuffix("kB")) // 1024
    return {"unified": {f"hugetlb.{megabytes}MB.max": "0"}}


@pytest.fixture
def session() -> Iterator[Session]:
    yield agentcgroup.register("langchain", config={"limits": {"call": _a_controller()}})
    agentcgroup.unregister()


def _divide(way: str, seconds: str = "60") -> int:
    """Divide the cgroup of the running call; return the pid of the process that is left in it."""
    command = [sys.executable, "-IS", _DIVIDE, way, seconds]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def _cgroup(pid: int) -> str:
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return next(line.split("::", 1)[1] for line in lines if line.startswith("0::"))


def _below(pid: int, call: agentcgroup.Call) -> bool:
    path = call.contained and call.contained.group.path
    assert path is not None
    return f"/{os.path.basename(path)}/" in f"{_cgroup(pid)}/"


def _fork() -> None:
    assert os.waitpid(os.fork() or os._exit(0), 0)[1] == 0


def _from_fork_server() -> None:
    process = multiprocessing.get_context("forkserver").Process(target=os.getpid)
    process.start()
    process.join()
    assert process.exitcode == 0


_STARTS: dict[str, Callable[[], object]] = {
    "fork_exec": lambda: subprocess.run(["true"], check=True),
    "preexec_fn": lambda: subprocess.run(["true"], check=True, preexec_fn=lambda: None),
    "posix_spawn": lambda: os.waitpid(os.posix_spawnp("true", ["true"], os.environ), 0),
    "system": lambda: os.system("exit 0") == 0 or pytest.fail("refused"),
    "fork": _fork,
    "fork server": _from_fork_server,
}


def _unexpected(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was logged beside the notice of a process that was left running."""
    return [one for one in caplog.messages if "left running, is ended with the call" not in one]


@pytest.mark.parametrize("way", _WAYS)
@pytest.mark.parametrize("start", _STARTS.values(), ids=_STARTS)
def test_a_call_that_divided_its_cgroup_starts_processes(
    session: Session, way: str, start: Callable[[], object], caplog: pytest.LogCaptureFixture
) -> None:
    with agentcgroup.call("engine"):
        left = _divide(way)
        start()
        start()
        assert alive(left)
    (record,) = session.records
    assert ended(left)
    assert (record.outcome, record.reason) == ("ok", "leftovers")
    assert record.cgroup is not None
    assert not os.path.exists(record.cgroup)
    assert _unexpected(caplog) == []


@pytest.mark.parametrize("way", _WAYS)
def test_a_timeout_ends_all_of_a_divided_call(session: Session, way: str) -> None:
    started: list[int] = []

    def hang() -> None:
        with agentcgroup.call("engine", timeout="2s") as call:
            started.append(_divide(way))
            second = subprocess.Popen(["sleep", "60"])
            started.append(second.pid)
            assert all(_below(pid, call) for pid in started)
            assert set(started) <= set(call.pids())
            second.wait()

    with pytest.raises(LimitExceeded):
        hang()
    (record,) = session.records
    assert ended(*started)
    assert record.outcome == "timeout"
    assert record.cgroup is not None
    assert not os.path.exists(record.cgroup)


@pytest.mark.parametrize("way", ["controllers", "moved", "deep"])
def test_calls_inside_a_divided_call_have_cgroups(
    session: Session, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """All but "threaded": the kernel has no domain cgroup below a threaded one."""
    with agentcgroup.call("engine") as outer:
        left = _divide(way)
        with agentcgroup.call("inner"):
            sleeper = subprocess.Popen(["sleep", "60"])
            assert _below(sleeper.pid, outer)
        subprocess.run(["true"], check=True)
        assert alive(left)
    inner, record = session.records
    assert ended(left, sleeper.pid)
    assert (inner.reason, record.reason) == ("leftovers", "leftovers")
    assert inner.cgroup is not None
    assert record.cgroup is not None
    assert inner.cgroup.startswith(f"{record.cgroup}/")
    assert not os.path.exists(record.cgroup)
    assert _unexpected(caplog) == []


@pytest.mark.parametrize("way", _WAYS)
def test_a_divided_call_is_kept_whole(session: Session, way: str) -> None:
    """Its processes rely on their cgroups; they end with the agent."""
    with agentcgroup.call("engine", background="keep") as call:
        left = _divide(way)
        subprocess.run(["true"], check=True)
        before = _cgroup(left)
    with agentcgroup.call("next") as after:
        subprocess.run(["true"], check=True)
        assert not _below(left, after)
    assert [record.reason for record in session.records] == [None, None]
    assert session.records[0].cpu_usage_s
    assert alive(left)
    assert _cgroup(left) == before
    assert _below(left, call)
    agentcgroup.unregister()
    assert ended(left)


def test_a_worker_is_born_in_a_divided_call(session: Session) -> None:
    with agentcgroup.call("outer") as call:
        left = _divide("controllers")
        run = agentcgroup.isolate(isolation="process")(os.getpid)
        assert run() != os.getpid()
        assert alive(left)
        assert _below(left, call)
    assert ended(left)


@pytest.mark.parametrize("reuse", [1, 5])
def test_a_worker_that_divided_its_cgroup_serves_no_other_call(
    session: Session, reuse: int
) -> None:
    run = agentcgroup.isolate(isolation="process", reuse=reuse)(_divide)
    first = run("moved")
    second = run("moved")
    assert ended(first, second)
    for record in session.records:
        assert (record.outcome, record.reason) == ("ok", "leftovers")
        assert record.cgroup is not None
        assert not os.path.exists(record.cgroup)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_of_spawning_finds_the_new_leaf(mode: str) -> None:
    """A child that moves itself is refused by the kernel as one that clone3 places."""
    done = run_python(mode, "-c", _IN_A_MODE, _DIVIDE, repr(_a_controller()))
    assert (done.returncode, done.stderr) == (0, "")


_IN_A_MODE = """
import ast, os, subprocess, sys
import agentcgroup, logging
logging.getLogger("agentcgroup").addHandler(logging.NullHandler())
session = agentcgroup.register(config={"limits": {"call": ast.literal_eval(sys.argv[2])}})
with agentcgroup.call("engine"):
    subprocess.run([sys.executable, "-IS", sys.argv[1], "controllers"], check=True,
                   stdout=subprocess.DEVNULL)
    subprocess.run(["true"], check=True)
    assert os.waitpid(os.fork() or os._exit(0), 0)[1] == 0
(record,) = session.records
assert (record.outcome, record.reason) == ("ok", "leftovers"), record
assert not os.path.exists(record.cgroup)
"""
