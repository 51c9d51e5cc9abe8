"""The time in which a worker imports a tool's modules is not the tool's; it ends all the same."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import agentcgroup
from agentcgroup.calls import feedback, worker_start

#: Slow in every process but the app: a module of a tool that a worker imports.
MODULE = """
import os, time
if os.getpid() != int(os.environ["TEST_APP"]):
    time.sleep(float(os.environ["TEST_SLEEP"]))

class Argument:
    pass

def body(*_):
    return os.getpid()

async def abody(*_):
    return os.getpid()

def slow(*_):
    time.sleep(300)

def spawns(*_):
    import subprocess
    subprocess.run(["sleep", "300"])
"""


@pytest.fixture
def tools(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Give a module that takes 6 s to import; in a session whose calls have 2 s."""
    (folder / "slow_tools.py").write_text(MODULE)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("TEST_APP", str(os.getpid()))
    monkeypatch.setenv("TEST_SLEEP", "6")
    agentcgroup.register("langchain", config={"limits": {"call": {"timeout": "2s"}}})
    yield importlib.import_module("slow_tools")
    agentcgroup.unregister()
    del sys.modules["slow_tools"]


def _isolated(body: Callable[..., Any]) -> Callable[..., Any]:
    return agentcgroup.isolate("tool", isolation="process")(body)


def _here(_: object) -> int:
    return os.getpid()


def test_an_import_that_takes_longer_than_the_timeout_is_no_timeout(tools: ModuleType) -> None:
    assert _isolated(tools.body)() != os.getpid()
    record = agentcgroup.register().records[-1]
    assert (record.outcome, record.reason) == ("ok", None)
    assert record.worker_start_s is not None
    assert 6 <= record.worker_start_s <= record.duration_s


def test_it_is_not_for_an_async_body(tools: ModuleType) -> None:
    assert asyncio.run(_isolated(tools.abody)()) != os.getpid()


def test_the_module_of_an_argument_counts_the_same(tools: ModuleType) -> None:
    assert _isolated(_here)(tools.Argument()) != os.getpid()


@pytest.mark.parametrize("name", ["slow", "spawns"])
def test_the_body_still_has_its_time_and_no_more(tools: ModuleType, name: str) -> None:
    with pytest.raises(agentcgroup.LimitExceeded) as caught:
        _isolated(getattr(tools, name))()
    record = caught.value.record
    assert record is not None
    assert record.outcome == record.reason == "timeout"
    assert record.worker_start_s is not None
    assert record.worker_start_s >= 6
    assert record.duration_s >= record.worker_start_s + 1.9
    told = feedback.sentence(record) or ""
    assert "time limit of 2s (timeout)" in told
    assert "in which its worker process imported modules for the first time, did not count" in told


def test_a_module_that_hangs_at_import_ends(
    tools: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_SLEEP", "600")
    for module in (worker_start, feedback):
        monkeypatch.setattr(module, "START_MOST", 5.0)
    with pytest.raises(agentcgroup.LimitExceeded) as caught:
        _isolated(tools.body)()
    record = caught.value.record
    assert record is not None
    assert record.outcome == "timeout"
    assert record.worker_start_s == 5.0
    assert record.duration_s >= 6.9
    assert "Its own code had not begun" in (feedback.sentence(record) or "")


def test_a_module_that_is_missing_in_the_worker_is_told_as_before(tools: ModuleType) -> None:
    Path("slow_tools.py").unlink()
    with pytest.raises(agentcgroup.Unshippable, match="slow_tools"):
        _isolated(tools.body)()


def test_a_tool_that_runs_inline_has_no_worker(tools: ModuleType) -> None:
    agentcgroup.isolate("tool")(tools.body)()
    assert agentcgroup.register().records[-1].worker_start_s is None
