"""A tool of an AutoGen agent exceeds its memory_max; everything else goes on."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.messages import ToolCallExecutionEvent
from autogen_core import CancellationToken
from autogen_core.tools import FunctionTool

from agentcgroup import Session
from tests.kernel.support import MiB, processes_below
from tests.support.scripted import autogen_model

LIMIT = 64 * MiB


def hungry(mib: int) -> str:
    """Start a process that eats memory."""
    code = f"x = bytearray({mib} << 20); print(len(x))"
    done = subprocess.run([sys.executable, "-ISc", code], capture_output=True, text=True)
    return done.stdout


async def modest(mib: int) -> str:
    """Start a process that eats little memory, and fail when it fails."""
    code = f"x = bytearray({mib} << 20); print(len(x))"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-ISc", code, stdout=subprocess.PIPE
    )
    out, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError("the command failed")
    return out.decode()


def test_a_call_over_its_memory_max_dies_alone(registered: Callable[..., Session]) -> None:
    """Two tools in parallel, one in a thread: it is OOM-killed, the other and the agent go on."""
    session = registered("autogen", limits={"call": {"memory_max": LIMIT}})
    agent = AssistantAgent(
        "analyst",
        autogen_model([("hungry", {"mib": 500}), ("modest", {"mib": 4})], "I go on."),
        tools=[hungry, modest],
        reflect_on_tool_use=True,
    )
    answer: Any = asyncio.run(agent.run(task="go"))

    assert answer.messages[-1].content == "I go on."
    records = {record.tool: record for record in session.records}
    died, lived = records["hungry"], records["modest"]
    assert (died.outcome, died.reason, died.agent) == ("oom", "memory_max", "analyst")
    assert died.memory_peak_bytes is not None
    assert abs(died.memory_peak_bytes - LIMIT) <= MiB
    assert died.oom_kills
    assert (lived.outcome, lived.reason, lived.oom_kills) == ("ok", None, 0)
    (event,) = [one for one in answer.messages if isinstance(one, ToolCallExecutionEvent)]
    told, fine = event.content
    assert (told.is_error, fine.is_error) == (True, False)
    assert "memory limit of 64 MiB (memory_max)" in told.content
    assert len(told.content.split()) <= 60
    assert fine.content == f"{4 * MiB}\n"
    assert processes_below(session) == []


def test_a_tool_that_fails_for_its_limit_is_told_why(registered: Callable[..., Session]) -> None:
    """The model's answer has the text of the tool's own exception, then the reason."""
    session = registered("autogen", limits={"call": {"memory_max": LIMIT}})
    agent = AssistantAgent(
        "analyst",
        autogen_model([("modest", {"mib": 500})], "I go on."),
        tools=[FunctionTool(modest, "Eat.")],
        reflect_on_tool_use=True,
    )
    answer: Any = asyncio.run(agent.run(task="go", cancellation_token=CancellationToken()))
    (event,) = [one for one in answer.messages if isinstance(one, ToolCallExecutionEvent)]
    (told,) = event.content
    assert told.is_error
    assert told.content.startswith("the command failed\n\nTool 'modest' was stopped")
    assert [record.outcome for record in session.records] == ["oom"]
