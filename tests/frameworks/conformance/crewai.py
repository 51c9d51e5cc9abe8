"""CrewAI: a crew whose model calls functions or writes the ReAct text, run or awaited."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import pytest
from crewai import Agent, Crew, Task
from crewai.mcp import MCPServerStdio
from crewai.tools import tool
from crewai.utilities.string_utils import sanitize_tool_name

from agentcgroup.adapters.crewai import identity
from tests.frameworks.conformance.driver import Driver, Reply, ToolAnswer
from tests.support.faults import break_function
from tests.support.scripted import Turn, crewai_model

_NO_CODE = "CodeInterpreterTool was removed, sandboxes are remote: crewAIInc/crewAI#5309"
_BEFORE_1_15 = importlib.util.find_spec("crewai.agents.agent_executor") is None


def _absent(old: Mapping[str, str], **absent: str) -> Mapping[str, str]:
    """Return the rows that are absent; those in `old` before CrewAI 1.15 only."""
    return {"code_executor": _NO_CODE, **absent, **(old if _BEFORE_1_15 else {})}


class Native(Driver):
    """`Crew.kickoff` with function calling: calls of one turn run in a pool of threads."""

    framework = "crewai"
    react: ClassVar[bool] = False
    #: `ToolFailure` came with 1.15.9.
    marks_errors = importlib.util.find_spec("crewai.tools.tool_failure") is not None
    absent = _absent({})

    def build(
        self,
        *turns: Turn,
        tools: Sequence[Callable[..., Any]] = (),
        name: str = "coder",
        retry: bool = False,
    ) -> Any:
        return _crew(self._agent(*turns, tools=[tool(one) for one in tools], role=name))

    def _agent(self, *turns: Turn, role: str, **settings: Any) -> Agent:
        model = crewai_model(*turns, react=self.react)
        return Agent(role=role, goal="Go.", backstory="Old.", llm=model, **settings)

    def build_nested(self, *turns: Turn, tools: Sequence[Callable[..., Any]]) -> Any:
        work = {"task": "Work.", "context": "None.", "coworker": "inner"}
        ask = [("delegate_work_to_coworker", work)]
        outer = self._agent(ask, "done", role="outer", allow_delegation=True)
        inner = self._agent(*turns, tools=[tool(one) for one in tools], role="inner")
        return _crew(outer, inner)

    def build_mcp(self, tool: str, command: Sequence[str], env: Mapping[str, str]) -> Any:
        server = MCPServerStdio(command=command[0], args=[*command[1:]], env=dict(env))
        offered = self._agent("unused", role="scout").get_mcp_tools([server])
        (name,) = [sanitize_tool_name(one.name) for one in offered if one.name.endswith(tool)]
        return _crew(self._agent([(name, {})], "done", role="coder", mcps=[server]))

    async def arun(self, agent: Any) -> Reply:
        return _reply(agent, await agent.kickoff_async())

    def run(self, agent: Any) -> Reply:
        return _reply(agent, agent.kickoff())

    def stream(self, agent: Any) -> Reply:
        agent.stream = True
        pieces = agent.kickoff()
        list(pieces)
        return _reply(agent, pieces.result)

    def break_identity(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fault(*_: Any) -> Any:
            raise RuntimeError("no names today")

        break_function(monkeypatch, identity.identify)
        monkeypatch.setattr(identity, "_role", fault)
        monkeypatch.setattr("crewai.utilities.agent_utils.extract_tool_call_info", fault)


class React(Native):
    """`Crew.kickoff` of a model without function calling."""

    react = True
    retries = True
    absent = _absent(
        {"mcp_server": "crewai/tools/tool_usage.py adds a security_context that MCP tools refuse"},
        parallel="a text asks for one tool at a time: crewai/translations/en.json, tool_usage",
    )


class Async(Native):
    """`Crew.akickoff`, with function calling."""

    absent = _absent(
        {
            "async_tool": "crewai/tools/base_tool.py runs it by asyncio.run, in a running loop",
            "cancelled": "crewai/agents/crew_agent_executor.py blocks the loop while a tool runs",
        }
    )

    async def arun(self, agent: Any) -> Reply:
        return _reply(agent, await agent.akickoff())

    def run(self, agent: Any) -> Reply:
        return asyncio.run(self.arun(agent))

    def stream(self, agent: Any) -> Reply:
        async def pieces() -> Any:
            agent.stream = True
            streaming = await agent.akickoff()
            async for _ in streaming:
                pass
            return streaming.result

        return _reply(agent, asyncio.run(pieces()))


def _crew(*agents: Agent) -> Crew:
    task = Task(description="Do it.", expected_output="Done.", agent=agents[0])
    return Crew(agents=[*agents], tasks=[task])


def _reply(crew: Crew, output: Any) -> Reply:
    """Read the output and the inputs of the first agent's model."""
    model: Any = crew.agents[0].llm
    failures = getattr(output.tasks_output[0], "tool_failures", [])

    def failed(name: str, text: str) -> bool:
        return any(one.tool_name == name and one.failure.message in text for one in failures)

    read = _results if model.supports_function_calling() else _observations
    answers = (ToolAnswer(name, text, failed(name, text)) for name, text in read(model.seen[-1]))
    return Reply(output.raw, tuple(answers))


def _results(messages: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    return [(m["name"], m["content"]) for m in messages if m["role"] == "tool"]


def _observations(messages: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Take a ReAct text apart; now and then CrewAI appends a reminder of how to use tools."""
    found = []
    for message in messages:
        head, observation, text = str(message["content"]).partition("\nObservation: ")
        if observation and message["role"] == "assistant":
            name = head.partition("Action: ")[2].partition("\n")[0]
            found.append((name, text.partition("\n\n\nYou ONLY have access")[0]))
    return found
