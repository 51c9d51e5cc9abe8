"""Wrappers of a framework's methods: calls, second seams, broken identities, cancellation."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

import pytest

import agentcgroup
from agentcgroup import CallRecord, Session
from agentcgroup.adapter import (
    Body,
    Call,
    FrameworkAdapter,
    Identity,
    Parts,
    Seam,
    StandIn,
    around_async_tool,
    around_tool,
    attach,
    cancels_calls,
    current_call,
    hook,
    opener,
    outside_calls,
    placed,
)
from agentcgroup.api import begin


def _identify(tool: Any, arguments: Mapping[str, Any]) -> Identity:
    return "coder", tool.name, arguments.get("call_id")


def _answer(record: CallRecord, result: Any, error: Exception | None) -> str:
    return attach("" if error is not None else str(result), record)


def _stand_in(call: Call, tool: Any, _arguments: Mapping[str, Any]) -> Any:
    return StandIn(tool, ("run", "arun"), function=placed(call, Body(tool.function)))


_open = opener("toy", _identify)


class Tool:
    """A tool of a framework with a sync and an async method, both wrapped."""

    def __init__(self, function: Callable[..., Any], name: str = "tool") -> None:
        self.function = function
        self.name = name

    @around_tool(_open, _answer, _stand_in)
    def run(self, call_id: str | None = None) -> Any:
        return self.function()

    @around_async_tool(_open, _answer, _stand_in)
    async def arun(self, call_id: str | None = None) -> Any:
        return self.function()


@pytest.fixture
def session() -> Iterator[Session]:
    rules = [{"tool": "slow*", "timeout": "1s"}, {"tool": "isolated*", "isolation": "process"}]
    session = begin(config={"rules": rules})
    yield session
    agentcgroup.unregister()


def _names(session: Session) -> list[tuple[str, str | None, str, str | None]]:
    records = sorted(session.records, key=lambda record: record.started_at)
    return [(one.framework, one.agent, one.tool, one.tool_call_id) for one in records]


def test_without_a_session_the_method_runs_as_it_is() -> None:
    tool = Tool(lambda: current_call())
    assert tool.run() is None
    assert asyncio.run(tool.arun()) is None


def test_each_run_is_a_call_with_its_identity(session: Session) -> None:
    def inside() -> str:
        call = current_call()
        assert call is not None
        return call.tool

    tool = Tool(inside)
    assert tool.run(call_id="1") == "tool"
    assert asyncio.run(tool.arun(call_id="2")) == "tool"
    assert _names(session) == [("toy", "coder", "tool", "1"), ("toy", "coder", "tool", "2")]


@pytest.mark.parametrize("call_id", [None, "1"])
def test_a_tool_entered_again_without_a_new_id_is_the_same_call(
    session: Session, call_id: str | None
) -> None:
    again = [False, True]
    tool = Tool(lambda: tool.run(call_id=call_id) if again.pop() else "ran")
    assert tool.run(call_id="1") == "ran"
    assert _names(session) == [("toy", "coder", "tool", "1")]


def test_a_new_id_and_another_tool_are_calls_inside(session: Session) -> None:
    other = Tool(lambda: "ran", "other")
    again = Tool(lambda: other.run() if current_call_id() == "2" else again.run(call_id="2"))

    def current_call_id() -> str | None:
        call = current_call()
        return None if call is None else call.tool_call_id

    assert again.run(call_id="1") == "ran"
    assert [tool for _, _, tool, _ in _names(session)] == ["tool", "tool", "other"]
    assert sum(record.parent_id is None for record in session.records) == 1


def test_an_identity_that_cannot_be_read_changes_no_result(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    tool = Tool(lambda: "ran")
    del tool.name
    assert tool.run() == "ran"
    assert asyncio.run(tool.arun()) == "ran"
    assert _names(session) == [("toy", None, "Tool", None)] * 2
    assert caplog.text.count("the identity of a tool call could not be read") == 2


def test_a_body_runs_in_a_worker_where_the_policy_says_so(session: Session) -> None:
    tool = Tool(os.getpid, "isolated")
    assert os.getpid() not in (tool.run(), asyncio.run(tool.arun()))
    assert [record.isolation for record in session.records] == ["process", "process"]
    tool.name = "inline"
    assert tool.run() == os.getpid()


def test_a_limit_reaches_the_answer(session: Session) -> None:
    tool = Tool(lambda: subprocess.run(["sleep", "60"]).returncode, "slow")
    assert "time limit of 1s (timeout)" in tool.run()


def test_cancelling_ends_what_runs_in_a_thread(session: Session) -> None:
    """A thread cannot be cancelled; its processes can."""
    started = threading.Event()

    def wait() -> int:
        process = subprocess.Popen(["sleep", "60"])
        started.set()
        return process.wait()

    class Agent:
        threaded: object = None

        @cancels_calls(unless="threaded")
        async def kickoff(self) -> Any:
            return await asyncio.to_thread(Tool(wait).run)

    async def give_up() -> None:
        task = asyncio.create_task(Agent().kickoff())
        await asyncio.to_thread(started.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(give_up())
    assert [record.outcome for record in session.records] == ["cancelled"]


def test_a_server_is_started_outside_the_call_that_needs_it_first(session: Session) -> None:
    @outside_calls
    async def start() -> Call | None:
        return current_call()

    async def body() -> tuple[Call | None, Call | None]:
        return await start(), current_call()

    tool = Tool(lambda: asyncio.run(body()))
    outside, inside = tool.run()
    assert outside is None
    assert inside is not None


@pytest.fixture
def framework(monkeypatch: pytest.MonkeyPatch) -> str:
    """Import a framework of one module; return its name."""
    module = ModuleType("toy_of_test_seam")

    class Base:
        def run(self) -> str:
            return "ran"

    module.Base = Base  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module.__name__


def _loud(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: f"{original(*args)}!"


def test_a_missing_class_is_a_warning_unless_it_is_optional(
    framework: str, caplog: pytest.LogCaptureFixture
) -> None:
    hook(framework, [Seam("Gone.run", _loud, "lost", is_optional=True)])
    assert caplog.records == []
    hook(framework, [Seam("Base.gone", _loud, "no names", is_optional=True)])
    hook(framework, [Seam("Gone.run", _loud, "lost"), Seam("Base.run", _loud, "lost")])
    texts = [record.getMessage() for record in caplog.records]
    assert [text.split(": ", 1)[1] for text in texts] == [
        f"{framework}.Base.gone is missing in this version: no names",
        f"{framework}.Gone.run is missing in this version: lost",
    ]
    assert sys.modules[framework].Base().run() == "ran!"


def test_an_adapter_loads_its_parts_once_its_framework_is_there(framework: str) -> None:
    """`modules` lists modules of its packages alone, and not asyncio."""
    loaded = []

    def parts() -> Parts:
        loaded.append(1)
        seams = {framework: [Seam("Base.run", _loud, "lost")], "asyncio": ()}
        return Parts(seams, owns=lambda tool: tool == 1, bodies=lambda _: {}, install_more=more)

    def more() -> None:
        loaded.append(2)

    absent = FrameworkAdapter("toy", "toy", ("toy_that_is_absent",), parts, "lost")
    absent.install()
    assert loaded == []
    there = FrameworkAdapter("toy", "toy", (framework,), parts, "lost")
    for _ in range(2):
        there.install()
        assert sys.modules[framework].Base().run() == "ran!"
    assert loaded.count(2) == 2
    assert there.modules() == [framework]
    assert there.owns(1)
    assert not there.owns(2)
    assert there.bodies(1) == {}
