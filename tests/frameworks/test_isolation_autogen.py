"""AutoGen's tools with their bodies in workers: arguments, results and answers."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from typing import Annotated, Any

import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.messages import ToolCallExecutionEvent
from autogen_agentchat.tools import AgentTool
from autogen_core import EVENT_LOGGER_NAME, CancellationToken
from autogen_core.models import FunctionExecutionResult
from autogen_core.tools import BaseTool, FunctionTool
from autogen_ext.tools.mcp import McpWorkbench, StdioServerParams, mcp_server_tools
from pydantic import BaseModel

import agentcgroup
from agentcgroup import LimitExceeded, Session
from agentcgroup.isolation import inside
from tests.support.scripted import Turn, autogen_model

#: For the fixture `session`.
FRAMEWORK = "autogen"
RULES = [
    {"tool": "*", "isolation": "process"},
    {"tool": "inner_inline", "on_unshippable": "inline"},
]

_APP = os.getpid()


class Point(BaseModel):
    """An argument and a result of its own type."""

    x: int


class Mirror(BaseTool[Point, Point]):
    """A tool that is not made of a function."""

    def __init__(self) -> None:
        super().__init__(Point, Point, "mirror", "Mirror a point.")
        self.seen = 0

    async def run(self, args: Point, cancellation_token: CancellationToken) -> Point:
        """Mirror it."""
        self.seen += 1
        assert not cancellation_token.is_cancelled()
        return Point(x=-args.x if inside() else 0)


def _results(*turns: Turn, **options: Any) -> list[FunctionExecutionResult]:
    """Run an agent once for each turn: old versions of AutoGen make one turn per run."""
    agent = AssistantAgent("coder", autogen_model(*turns), **options)
    runs = [asyncio.run(agent.run(task="go")).messages for _ in turns]
    events = [
        one for messages in runs for one in messages if isinstance(one, ToolCallExecutionEvent)
    ]
    return [result for event in events if event.source == "coder" for result in event.content]


def test_strict_functions_sync_and_async(session: Session) -> None:
    """The framework makes the schema; the app checks the arguments."""

    def double(a: Annotated[int, "A number"]) -> str:
        return f"{2 * a} {inside()}"

    async def triple(a: Annotated[int, "A number"]) -> str:
        await asyncio.sleep(0.01)
        return f"{3 * a} {inside()}"

    tools = [FunctionTool(one, one.__name__, strict=True) for one in (double, triple)]
    schemas = [one.schema for one in tools]
    first, second = _results([("double", {"a": 2}), ("triple", {"a": 2})], tools=tools)
    assert (first.content, second.content) == ("4 True", "6 True")
    (wrong,) = _results([("double", {"a": "x"})], tools=tools)
    assert wrong.is_error
    assert "validation error" in wrong.content
    assert [one.schema for one in tools] == schemas


def test_a_tool_class_is_sent_with_its_instance(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    """Its arguments and result are models; the app emits the framework's event."""
    mirror = Mirror()
    with caplog.at_level(logging.INFO):
        (result,) = _results([("mirror", {"x": 4})], tools=[mirror])
    assert result.content == '{"x": -4}'
    assert mirror.seen == 0
    assert any("changed its own seen" in one.message for one in caplog.records)
    events = [one for one in caplog.records if one.name == EVENT_LOGGER_NAME]
    assert any("mirror" in str(one.msg) and one.process == _APP for one in events)


def test_cancelling_the_token_kills_the_worker(session: Session) -> None:
    """The worker has a token of its own; cancelling the app's token kills the worker."""

    def endless(cancellation_token: CancellationToken) -> str:
        while not cancellation_token.is_cancelled():
            pass
        return "told to stop"

    async def run() -> float:
        token = CancellationToken()
        tool = FunctionTool(endless, "Run on.")
        running = asyncio.create_task(tool.run_json({}, token))
        while not session._services.workers()._launcher._living:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        begin = time.monotonic()
        token.cancel()
        with pytest.raises((LimitExceeded, asyncio.CancelledError, agentcgroup.WorkerDied)):
            await running
        return time.monotonic() - begin

    assert asyncio.run(run()) < 50
    (record,) = session.records
    assert (record.outcome, record.isolation) == ("cancelled", "process")


def test_an_agent_as_a_tool_is_refused_or_runs_inline(session: Session) -> None:
    """Inline, its inner calls have workers of their own."""

    def where() -> str:
        return f"elsewhere: {inside()}"

    def inner(name: str) -> AgentTool:
        model = autogen_model([("where", {})])
        agent = AssistantAgent(name, model, description="x", tools=[where])
        return AgentTool(agent)

    refused, answered = _results(
        [("inner", {"task": "go"})],
        [("inner_inline", {"task": "go"})],
        tools=[inner("inner"), inner("inner_inline")],
    )
    assert refused.is_error
    assert "tool 'inner' (autogen_agentchat.tools._agent.AgentTool)" in refused.content
    assert "config= rule 1" in refused.content
    assert answered.content.endswith("elsewhere: True")
    outcomes = {record.tool: (record.outcome, record.isolation) for record in session.records}
    assert outcomes == {
        "inner": ("rejected", "inline"),
        "inner_inline": ("ok", "inline"),
        "where": ("ok", "process"),
    }


def test_an_mcp_workbench_is_refused(session: Session) -> None:
    """Its server is a process of its own, and its connection is in the app."""

    async def run() -> FunctionExecutionResult:
        params = StdioServerParams(
            command=sys.executable,
            args=["-m", "tests.frameworks.mcp_server"],
            read_timeout_seconds=60,
        )
        async with McpWorkbench(params) as workbench:
            model = autogen_model([("server_pid", {})])
            agent = AssistantAgent("coder", model, workbench=workbench)
            messages = (await agent.run(task="go")).messages
        events = [one for one in messages if isinstance(one, ToolCallExecutionEvent)]
        return events[0].content[0]

    result = asyncio.run(run())
    assert result.is_error
    assert "the workbench of tool 'server_pid'" in result.content
    (record,) = session.records
    assert record.outcome == "rejected"


def test_a_tool_that_starts_an_mcp_server_for_each_call_runs_inline(session: Session) -> None:
    """The server, which does the work, is in the call's cgroup; the client is the app's."""

    async def run() -> str:
        args = ["-m", "tests.frameworks.mcp_server"]
        params = StdioServerParams(command=sys.executable, args=args, read_timeout_seconds=60)
        tools = {tool.name: tool for tool in await mcp_server_tools(params)}
        tool = tools["server_cgroup"]
        return tool.return_value_as_string(await tool.run_json({}, CancellationToken()))

    told = asyncio.run(run())
    (record,) = session.records
    assert (record.isolation, record.outcome) == ("inline", "ok")
    assert str(record.cgroup).rpartition("/")[2] in told
