"""AutoGen: a researcher calls an MCP server whose search never ends.

    python examples/autogen_researcher.py

Each call starts a process of the server (mcp_notes.py). So the process runs in the cgroup of the
call and ends with the call. The search follows a circle of notes until the call reaches its
timeout. The model reads why, and reads one note instead. With a real model of OpenAI:

    AGENTCGROUP_EXAMPLE_MODEL=gpt-5 python examples/autogen_researcher.py
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import shown
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.messages import TextMessage, ToolCallExecutionEvent, ToolCallRequestEvent
from autogen_ext.tools.mcp import StdioServerParams, mcp_server_tools

import agentcgroup

session = agentcgroup.register(
    config={"limits": {"call": {"memory_max": "256M"}}, "rules": [{"tool": "*", "timeout": "5s"}]}
)

NOTES = StdioServerParams(
    command=sys.executable, args=[str(Path(__file__).with_name("mcp_notes.py"))]
)


def model() -> Any:
    """Return the model that the user names, or a scripted one."""
    if shown.MODEL is not None:
        with shown.needs("autogen-ext[openai]"):
            from autogen_ext.models.openai import OpenAIChatCompletionClient

            return OpenAIChatCompletionClient(model=shown.MODEL)
    from scripted import autogen_model

    return autogen_model(
        [("search", {"word": "waiting"})],
        [("read_note", {"title": "pressure"})],
        "That PSI measures it: how long tasks waited for memory, CPU or I/O.",
    )


async def main() -> None:
    """Have the researcher answer one question."""
    researcher = AssistantAgent(
        "researcher",
        model(),
        tools=[*await mcp_server_tools(NOTES)],
        max_tool_iterations=10,
    )
    async for message in researcher.run_stream(task="What do the notes say about waiting?"):
        if isinstance(message, ToolCallRequestEvent):
            for call in message.content:
                print(f"model calls {call.name}({call.arguments})")
        elif isinstance(message, ToolCallExecutionEvent):
            for result in message.content:
                shown.told(result.content)
        elif isinstance(message, TextMessage) and message.source == researcher.name:
            print(f"model answers: {message.content}\n")


asyncio.run(main())
shown.records(session)
