"""An agent for `langgraph dev`: the user's message names the async tool that the model calls."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool

import agentcgroup

os.environ.setdefault("TEST_SERVER", str(os.getpid()))
agentcgroup.register("langchain")


class Model(FakeMessagesListChatModel):
    """Calls the tool that the user names, then repeats what it has returned."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self

    def _generate(self, messages: Any, *args: Any, **kwargs: Any) -> ChatResult:
        last = messages[-1]
        if last.type == "tool":
            answer = AIMessage(content=last.content)
        else:
            called = {"name": last.content, "args": {"flag": "-s"}, "id": "call-1"}
            answer = AIMessage(content="", tool_calls=[called])
        return ChatResult(generations=[ChatGeneration(message=answer)])


async def _uname(flag: str) -> str:
    process = await asyncio.create_subprocess_exec("uname", flag, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    where = "server" if os.environ["TEST_SERVER"] == str(os.getpid()) else "worker"
    loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    return f"{out.decode().strip()} {process.returncode} in the {where} with {loop}"


@tool
async def plain(flag: str) -> str:
    """Print the kernel's name."""
    return await _uname(flag)


@tool
async def isolated(flag: str) -> str:
    """Print the kernel's name."""
    return await _uname(flag)


@tool
async def hangs(flag: str) -> str:
    """Start a process that does not end."""
    process = await asyncio.create_subprocess_exec("sleep", "1000")
    await process.wait()
    return "partial"


@tool
async def leaves(flag: str) -> str:
    """Leave a process."""
    process = await asyncio.create_subprocess_shell("sleep 1000 & true")
    await process.wait()
    return "left"


graph = create_agent(Model(responses=[]), [plain, isolated, hangs, leaves], name="agent")
