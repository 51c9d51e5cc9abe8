"""AutoGen: an `AssistantAgent` by itself, and in a team, whose runtime runs it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from autogen_agentchat.agents import AssistantAgent, CodeExecutorAgent
from autogen_agentchat.base import TaskResult
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.messages import TextMessage, ToolCallExecutionEvent
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_agentchat.tools import AgentTool, TeamTool
from autogen_core import CancellationToken
from autogen_ext.code_executors.local import LocalCommandLineCodeExecutor
from autogen_ext.tools.mcp import StdioServerParams, mcp_server_tools

from agentcgroup.adapters.autogen import identity
from tests.frameworks.conformance.driver import Driver, Reply, ToolAnswer
from tests.support.faults import break_function
from tests.support.scripted import Turn, autogen_model


class Agent(Driver):
    """`AssistantAgent.run` and `run_stream`."""

    framework = "autogen"
    code_tool = identity.CODE

    def build(
        self,
        *turns: Turn,
        tools: Sequence[Any] = (),
        name: str = "coder",
        retry: bool = False,
    ) -> Any:
        return self._around(_assistant(*turns, tools=tools, name=name))

    def _around(self, agent: Any) -> Any:
        return agent

    def build_nested(self, *turns: Turn, tools: Sequence[Callable[..., Any]]) -> Any:
        inner = AgentTool(_assistant(*turns, tools=tools, name="inner"))
        return self.build([("inner", {"task": "go"})], "done", tools=[inner], name="outer")

    def build_mcp(self, tool: str, command: Sequence[str], env: Mapping[str, str]) -> Any:
        params = StdioServerParams(
            command=command[0],
            args=[*command[1:]],
            env=dict(env),
            read_timeout_seconds=60,  # an emulated machine needs more than its 5 to start Python
        )
        tools = [one for one in asyncio.run(mcp_server_tools(params)) if one.name == tool]
        return self.build([(tool, {})], "done", tools=tools)

    def build_code(self, command: str, folder: Path) -> Any:
        agent = CodeExecutorAgent("coder", LocalCommandLineCodeExecutor(work_dir=folder))
        return self._around(agent), f"import os\nos.system({command!r})"

    async def arun(self, agent: Any, token: CancellationToken | None = None) -> Reply:
        agent, task = _task(agent)
        return _reply(await agent.run(task=task, cancellation_token=token))

    def stream(self, agent: Any) -> Reply:
        async def pieces() -> list[Any]:
            return [piece async for piece in agent.run_stream(task="go")]

        *_, result = asyncio.run(pieces())
        return _reply(result)

    async def give_up(self, agent: Any, started: Callable[[], Awaitable[None]]) -> None:
        token = CancellationToken()
        run = asyncio.create_task(self.arun(agent, token))
        await started()
        token.cancel()
        reply = await asyncio.wait_for(run, 60)
        assert [answer.failed for answer in reply.answers] == [True]

    def break_identity(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for read in (identity.of_request, identity.of_tool, identity.of_code):
            break_function(monkeypatch, read)


class Team(Agent):
    """The same in a `RoundRobinGroupChat`."""

    def _around(self, agent: Any) -> Any:
        one_turn = MaxMessageTermination(2)  # the question and the agent's answer
        return RoundRobinGroupChat([agent], termination_condition=one_turn)

    def build_nested(self, *turns: Turn, tools: Sequence[Callable[..., Any]]) -> Any:
        inner = self._around(_assistant(*turns, tools=tools, name="inner"))
        tool = TeamTool(inner, "team", "A team.")
        return self.build([("team", {"task": "go"})], "done", tools=[tool], name="outer")

    async def give_up(self, agent: Any, started: Callable[[], Awaitable[None]]) -> None:
        token = CancellationToken()
        run = asyncio.create_task(self.arun(agent, token))
        await started()
        token.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(run, 60)


def _assistant(*turns: Turn, tools: Sequence[Any], name: str) -> AssistantAgent:
    return AssistantAgent(
        name,
        autogen_model(*turns),
        tools=[*tools],
        reflect_on_tool_use=False,
        max_tool_iterations=10,
    )


def _task(agent: Any) -> tuple[Any, Any]:
    """Return the agent and its task: code, or any text."""
    if not isinstance(agent, tuple):
        return agent, "go"
    agent, code = agent
    return agent, TextMessage(content=f"```python\n{code}\n```", source="user")


def _reply(result: TaskResult) -> Reply:
    answers = tuple(
        ToolAnswer(one.name, one.content, bool(one.is_error))
        for message in result.messages
        if isinstance(message, ToolCallExecutionEvent)
        for one in message.content
    )
    return Reply(result.messages[-1].to_text(), answers)
