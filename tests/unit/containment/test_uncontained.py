"""A run that has cgroups lets no call run without one, and makes anew what others have removed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import agentcgroup
from agentcgroup import LimitExceeded, Session
from agentcgroup.cgroup import Cgroup
from tests.support.faults import no_descriptor_left

#: Run in a call each, with the file that the process would write.
_WAYS: dict[str, Callable[[Path], Any]] = {
    "subprocess": lambda file: subprocess.run(["touch", file], check=True),
    "system": lambda file: os.system(f"touch {file}"),
    "asyncio": lambda file: asyncio.run(_touch(file)),
}


async def _touch(file: Path) -> None:
    await (await asyncio.create_subprocess_exec("touch", file)).wait()


@pytest.fixture
def start() -> Iterator[Callable[..., Session]]:
    def start(**config: Any) -> Session:
        return agentcgroup.register("langchain", config=config)

    yield start
    agentcgroup.unregister()


def _run(session: Session) -> Cgroup:
    """Return the cgroup of the run, which then has no spare cgroup for a call."""
    with agentcgroup.call("first"):
        subprocess.run(["true"], check=True)
    _ = session.records
    branch = session._services.cgroups.branch()
    assert branch is not None
    return branch.cgroup


def _forbid(run: Cgroup, file: str = "cgroup.max.descendants") -> None:
    """Let the kernel refuse further cgroups, as a tool may that can write in the tree."""
    Path(run.path, file).write_text("0")


@pytest.mark.parametrize("way", _WAYS)
@pytest.mark.parametrize("file", ["cgroup.max.descendants", "cgroup.max.depth"])
def test_a_call_that_can_have_no_cgroup_is_refused(
    start: Callable[..., Session], tmp_path: Path, way: str, file: str
) -> None:
    session = start()
    _forbid(_run(session), file)
    with pytest.raises(LimitExceeded) as caught, agentcgroup.call("refused", agent="new"):
        _WAYS[way](tmp_path / "written")
    assert not (tmp_path / "written").exists()
    assert "its limits cannot be put in force now" in str(caught.value)
    record = session.records[-1]
    assert (record.outcome, record.cgroup) == ("rejected", None)
    assert (record.reason or "").startswith("uncontained: ")


def test_it_is_refused_without_a_free_descriptor(
    start: Callable[..., Session], tmp_path: Path
) -> None:
    session = start()
    _run(session)

    def write() -> None:
        with no_descriptor_left():
            os.system(f"touch {tmp_path}/written")

    with pytest.raises(LimitExceeded), agentcgroup.call("refused", agent="new"):
        write()
    assert not (tmp_path / "written").exists()
    assert session.records[-1].outcome == "rejected"


def test_an_isolated_call_is_refused(start: Callable[..., Session], tmp_path: Path) -> None:
    session = start()
    _forbid(_run(session))
    write = agentcgroup.isolate("refused", agent="new", isolation="process")(Path.touch)
    with pytest.raises(LimitExceeded):
        write(tmp_path / "written")
    assert not (tmp_path / "written").exists()
    assert session.records[-1].outcome == "rejected"


def test_it_runs_where_the_configuration_says_so(
    start: Callable[..., Session], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    session = start(on_uncontained="run")
    _forbid(_run(session))
    with agentcgroup.call("runs", agent="new"):
        _WAYS["subprocess"](tmp_path / "written")
    assert (tmp_path / "written").exists()
    assert "a call runs UNCONTAINED" in caplog.text
    assert session.records[-1].outcome == "ok"


def _remove(path: str) -> None:
    """Remove a cgroup with all below it, as another program may."""
    for folder, _, _ in os.walk(path, topdown=False):
        os.rmdir(folder)


@pytest.mark.parametrize("what", ["run", "agent", "call"])
@pytest.mark.parametrize("isolation", ["inline", "process"])
def test_what_another_program_removed_is_made_anew(
    start: Callable[..., Session], what: str, isolation: str
) -> None:
    session = start()
    run = _run(session)
    first = session.records[0].cgroup
    assert first is not None
    agent = os.path.dirname(first)
    if what == "call":
        for name in os.listdir(agent):
            if name.startswith("call-"):
                _remove(f"{agent}/{name}")
    else:
        _remove({"run": run.path, "agent": agent}[what])
    inside = agentcgroup.isolate("again", isolation=isolation)(_cgroup)
    for _ in range(3):
        assert "/call-" in inside()
    records = session.records[1:]
    assert [record.outcome for record in records] == ["ok"] * 3
    assert all(record.cgroup is not None for record in records)


def _cgroup() -> str:
    done = subprocess.run(["cat", "/proc/self/cgroup"], capture_output=True, text=True, check=True)
    return done.stdout


def test_a_call_inside_one_whose_cgroup_is_gone_has_a_cgroup(start: Callable[..., Session]) -> None:
    """As where the call around both has ended, and took the cgroups below it along."""
    start()
    with agentcgroup.call("outer") as outer:
        with agentcgroup.call("first"):
            assert "/call-" in _cgroup()
        assert outer.contained is not None
        gone = outer.contained.group.path
        assert gone is not None
        _remove_when_empty(gone)
        with agentcgroup.call("second"):
            inside = _cgroup()
        assert os.path.basename(gone) not in inside.split("/")
        assert inside.count("/call-") == 2
        assert "/call-" in _cgroup()


def _remove_when_empty(path: str) -> None:
    for _ in range(100):
        with contextlib.suppress(OSError):
            _remove(path)
            return
        time.sleep(0.05)
    _remove(path)
