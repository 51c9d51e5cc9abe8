"""Coroutines that another library than asyncio runs: trio, curio, or code that sends to them."""

from __future__ import annotations

import importlib
import subprocess
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

import agentcgroup
from agentcgroup import LimitExceeded, Session

Run = Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]


def _bare(function: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    coroutine = function()
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits for asyncio")


@pytest.fixture(params=["bare", "trio", "curio"])
def run(request: pytest.FixtureRequest) -> Run:
    if request.param == "bare":
        return _bare
    run: Run = importlib.import_module(request.param).run
    return run


@pytest.fixture
def session() -> Iterator[Session]:
    with agentcgroup.register() as session:
        yield session


def _where() -> str:
    command = ["grep", "^0::", "/proc/self/cgroup"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_block_is_a_call(session: Session, run: Run) -> None:
    async def main() -> str:
        async with agentcgroup.call("block", timeout=60):
            return _where()

    assert "/call-" in run(main)
    assert [(one.tool, one.outcome) for one in session.records] == [("block", "ok")]


def test_a_function_is_a_call(session: Session, run: Run) -> None:
    @agentcgroup.isolate("function", timeout=60)
    async def function() -> str:
        return _where()

    assert "/call-" in run(function)
    assert [(one.tool, one.outcome) for one in session.records] == [("function", "ok")]


def test_a_deadline_ends_what_a_call_has_started(session: Session, run: Run) -> None:
    async def main() -> None:
        async with agentcgroup.call("slow", timeout=0.5):
            subprocess.run(["sleep", "30"], check=False)

    begin = time.monotonic()
    with pytest.raises(LimitExceeded, match="time limit"):
        run(main)
    assert time.monotonic() - begin < 20
    assert [one.outcome for one in session.records] == ["timeout"]


def test_an_error_passes(session: Session, run: Run) -> None:
    async def main() -> None:
        async with agentcgroup.call("wrong", timeout=60):
            _where()
            raise KeyError("x")

    with pytest.raises(KeyError):
        run(main)
    assert [one.outcome for one in session.records] == ["error"]
