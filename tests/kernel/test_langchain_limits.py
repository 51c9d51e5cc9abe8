"""A tool of a LangChain agent exceeds its memory_max; everything else goes on."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import ToolMessage
from langchain_core.tools import tool

from agentcgroup import Session
from tests.kernel.support import MiB, processes_below
from tests.support.scripted import langchain_model

LIMIT = 64 * MiB


def _eat(mib: int) -> str:
    return f"x = bytearray({mib} << 20); print(len(x))"


@tool
def hungry(mib: int) -> str:
    """Start a process that eats memory."""
    done = subprocess.run([sys.executable, "-ISc", _eat(mib)], capture_output=True, text=True)
    return done.stdout


@tool
def modest(mib: int) -> str:
    """Start a process that eats little memory."""
    done = subprocess.run([sys.executable, "-ISc", _eat(mib)], capture_output=True, text=True)
    return done.stdout


@tool
async def ahungry(mib: int) -> str:
    """Start a process that eats memory, and fail when it fails."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-ISc", _eat(mib))
    if await process.wait():
        raise RuntimeError("the command failed")
    return "eaten"


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _answers(state: Any) -> dict[str, ToolMessage]:
    return {m.name: m for m in state["messages"] if isinstance(m, ToolMessage)}


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_call_over_its_memory_max_dies_alone(
    registered: Callable[..., Session], way: str
) -> None:
    """Two tools in parallel: one is OOM-killed, the other is ok, the agent answers."""
    session = registered(limits={"call": {"memory_max": LIMIT}})
    greedy = hungry if way == "sync" else ahungry
    model = langchain_model([(greedy.name, {"mib": 500}), ("modest", {"mib": 4})], "I go on.")
    agent = create_agent(model, [greedy, modest], name="analyst")
    before = _resident()
    question = {"messages": [("user", "go")]}
    state = agent.invoke(question) if way == "sync" else asyncio.run(agent.ainvoke(question))

    assert state["messages"][-1].content == "I go on."
    records = {record.tool: record for record in session.records}
    died, lived = records[greedy.name], records["modest"]
    assert (died.outcome, died.reason, died.agent) == ("oom", "memory_max", "analyst")
    assert died.memory_peak_bytes is not None
    assert abs(died.memory_peak_bytes - LIMIT) <= MiB
    assert died.oom_kills
    assert (lived.outcome, lived.reason, lived.oom_kills) == ("ok", None, 0)
    assert lived.memory_peak_bytes is not None
    assert lived.memory_peak_bytes < LIMIT
    told = _answers(state)[greedy.name]
    assert told.status == "error"
    assert "memory limit of 64 MiB (memory_max)" in str(told.content)
    assert len(str(told.content).split()) <= 60
    assert _answers(state)["modest"].content == f"{4 * MiB}\n"
    # The tool's memory is not in this process: the growth is the framework's own first use.
    assert _resident() - before < 30 * MiB
    assert processes_below(session) == []


def test_what_one_agent_eats_another_does_not_miss(registered: Callable[..., Session]) -> None:
    """limits.agent bounds all calls of one agent together; the other agent's call lives."""
    session = registered(
        limits={"agent": {"memory_max": 48 * MiB}, "call": {"memory_max": 512 * MiB}}
    )
    for name, mib in (("greedy", 200), ("other", 4)):
        model = langchain_model([("hungry", {"mib": mib})], "done")
        create_agent(model, [hungry], name=name).invoke({"messages": [("user", "go")]})
    first, second = session.records
    assert (first.agent, first.outcome, first.reason) == ("greedy", "oom", "agent.memory_max")
    assert (second.agent, second.outcome) == ("other", "ok")


def test_the_run_bounds_all_agents_together(registered: Callable[..., Session]) -> None:
    """A call that exceeds limits.run is killed, and its record names that limit."""
    session = registered(limits={"run": {"memory_max": 48 * MiB}})
    message = hungry.invoke(
        {"type": "tool_call", "name": "hungry", "args": {"mib": 300}, "id": "id-1"}
    )
    (record,) = session.records
    assert (record.outcome, record.reason) == ("oom", "run.memory_max")
    assert "all agents together" in message.content
