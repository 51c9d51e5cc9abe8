"""LangChain: `create_agent`, invoked and awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from deepagents import create_deep_agent
from deepagents.backends import LocalShellBackend
from langchain.agents import create_agent
from langchain.agents.middleware import ToolRetryMiddleware
from langchain_core.messages import ToolMessage
from langchain_core.tools import tool
from langchain_mcp_adapters.client import MultiServerMCPClient

from agentcgroup.adapters.langchain import identity
from tests.frameworks.conformance.driver import Driver, Reply, ToolAnswer
from tests.support.faults import break_function
from tests.support.scripted import Turn, langchain_model

_QUESTION: Any = {"messages": [("user", "go")]}


class Async(Driver):
    """`ainvoke` and `astream`: sync tools run in threads."""

    framework = "langchain"
    retries = True
    code_tool = "execute"

    def build(
        self,
        *turns: Turn,
        tools: Sequence[Callable[..., Any]] = (),
        name: str = "coder",
        retry: bool = False,
    ) -> Any:
        middleware = [ToolRetryMiddleware(max_retries=1, initial_delay=0)] if retry else []
        return create_agent(
            langchain_model(*turns), [tool(one) for one in tools], name=name, middleware=middleware
        )

    def build_nested(self, *turns: Turn, tools: Sequence[Callable[..., Any]]) -> Any:
        inner = self.build(*turns, tools=tools, name="inner")
        return self.build([("ask", {})], "done", tools=[self._asking(inner)], name="outer")

    def _asking(self, inner: Any) -> Callable[..., Any]:
        async def ask() -> str:
            """Ask the inner agent."""
            return (await self.arun(inner)).text

        return ask

    def build_mcp(self, tool: str, command: Sequence[str], env: Mapping[str, str]) -> Any:
        server: Any = {"transport": "stdio", "command": command[0], "args": command[1:], "env": env}
        tools = asyncio.run(MultiServerMCPClient({"server": server}).get_tools())
        return create_agent(langchain_model([(tool, {})], "done"), tools, name="coder")

    def build_code(self, command: str, folder: Path) -> Any:
        model = langchain_model([("execute", {"command": command})], "done")
        backend = LocalShellBackend(root_dir=str(folder))
        return create_deep_agent(model=model, backend=backend, name="coder")

    async def arun(self, agent: Any) -> Reply:
        return _reply((await agent.ainvoke(_QUESTION))["messages"])

    def stream(self, agent: Any) -> Reply:
        async def pieces() -> list[Any]:
            return [piece async for piece in agent.astream(_QUESTION, stream_mode="updates")]

        return _reply(_messages(asyncio.run(pieces())))

    def break_identity(self, monkeypatch: pytest.MonkeyPatch) -> None:
        break_function(monkeypatch, identity.identify)


class Sync(Async):
    """`invoke` and `stream`: tools of one turn run in a pool of threads."""

    absent: ClassVar[Mapping[str, str]] = {
        "async_tool": "a coroutine has no sync invocation: langchain-ai/langchain#37709",
        "isolated_async_tool": "a coroutine has no sync invocation: langchain-ai/langchain#37709",
        "mcp_server": "its tools are coroutines only: langchain-ai/langchain-mcp-adapters#576",
        "cancelled": "only a run that is awaited can be given up: langchain-ai/langgraph#369",
    }

    def _asking(self, inner: Any) -> Callable[..., Any]:
        def ask() -> str:
            """Ask the inner agent."""
            return self.run(inner).text

        return ask

    def run(self, agent: Any) -> Reply:
        return _reply(agent.invoke(_QUESTION)["messages"])

    def stream(self, agent: Any) -> Reply:
        return _reply(_messages(agent.stream(_QUESTION, stream_mode="updates")))


def _messages(pieces: Any) -> list[Any]:
    return [
        message for piece in pieces for update in piece.values() for message in update["messages"]
    ]


def _reply(messages: Sequence[Any]) -> Reply:
    """Read the last message and those to the model that answer a call."""
    answers = tuple(
        ToolAnswer(str(message.name), message.text, message.status == "error")
        for message in messages
        if isinstance(message, ToolMessage)
    )
    return Reply(messages[-1].text, answers)
