"""A tool that allocates memory of its own process: in a worker the tool alone is killed.

Frameworks are imported in the tests: they take long in an emulated machine.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from agentcgroup import Session
from tests.kernel.support import MiB
from tests.support.scripted import Turn, autogen_model, crewai_model, langchain_model

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:crewai")  # its own affair

LIMIT = 256 * MiB


def hungry(mib: int) -> str:
    """Eat memory in this very process, bite by bite: all at once may be more than is ever given."""
    return str(sum(map(len, [bytearray(4 * MiB) for _ in range(mib // 4)])))


def _langchain(*turns: Turn) -> Sequence[str]:
    from langchain.agents import create_agent
    from langchain_core.messages import ToolMessage
    from langchain_core.tools import tool

    agent = create_agent(langchain_model(*turns), [tool(hungry)], name="analyst")
    state = agent.invoke({"messages": [("user", "go")]})
    return [str(one.content) for one in state["messages"] if isinstance(one, ToolMessage)]


def _autogen(*turns: Turn) -> Sequence[str]:
    from autogen_agentchat.agents import AssistantAgent
    from autogen_agentchat.messages import ToolCallExecutionEvent

    agent = AssistantAgent(
        "analyst", autogen_model(*turns), tools=[hungry], max_tool_iterations=len(turns)
    )
    messages = asyncio.run(agent.run(task="go")).messages
    events = [one for one in messages if isinstance(one, ToolCallExecutionEvent)]
    return [str(result.content) for event in events for result in event.content]


def _crewai(*turns: Turn) -> Sequence[str]:
    from crewai import Agent, Crew, Task
    from crewai.tools import tool

    model = crewai_model(*turns)
    agent = Agent(role="analyst", goal="Go.", backstory="Old.", llm=model, tools=[tool(hungry)])
    task = Task(description="Do it.", expected_output="Done.", agent=agent)
    Crew(agents=[agent], tasks=[task]).kickoff()
    sent: list[dict[str, Any]] = model.seen[-1]
    return [str(message["content"]) for message in sent if message["role"] == "tool"]


_FRAMEWORKS = {"langchain": _langchain, "autogen": _autogen, "crewai": _crewai}


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.timeout(900)  # importing CrewAI alone takes a minute or two there
@pytest.mark.parametrize("framework", _FRAMEWORKS)
def test_a_tool_that_eats_the_agents_memory_dies_alone(
    registered: Callable[..., Session], framework: str
) -> None:
    """2 GiB under memory_max = 256M: the answer has the numbers, the agent's memory does not grow.

    The next call of the same tool works.
    """
    session = registered(
        framework,
        limits={"call": {"memory_max": LIMIT}},
        rules=[{"tool": "hungry", "isolation": "process"}],
    )
    run = _FRAMEWORKS[framework]
    small = [("hungry", {"mib": 4})]
    run(small, "I know it.")  # the framework's own first use takes memory of its own
    before = _resident()
    killed, worked = run([("hungry", {"mib": 2048})], small, "I go on.")
    grown = _resident() - before

    first, died, last = sorted(session.records, key=lambda record: record.started_at)
    assert (died.tool, died.outcome, died.reason) == ("hungry", "oom", "memory_max")
    assert (died.isolation, died.agent) == ("process", "analyst")
    assert died.memory_peak_bytes is not None
    assert abs(died.memory_peak_bytes - LIMIT) <= MiB
    assert died.oom_kills
    assert "memory limit of 256 MiB (memory_max)" in killed
    assert worked == str(4 * MiB)
    for record in (first, last):
        assert (record.outcome, record.isolation) == ("ok", "process")
        assert record.memory_peak_bytes is not None
        assert record.memory_peak_bytes > 4 * MiB
    assert abs(grown) < 5 * MiB
    for record in (first, died, last):
        assert record.cgroup is not None
        assert not os.path.exists(record.cgroup)
