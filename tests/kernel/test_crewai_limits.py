"""A tool of a crew exceeds its memory_max; everything else goes on.

CrewAI is imported in the tests: it takes long in an emulated machine, and others need not wait.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from agentcgroup import Session
from tests.kernel.support import MiB, processes_below
from tests.support.scripted import Turn, crewai_model

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:crewai")  # its own affair

LIMIT = 64 * MiB


def hungry(mib: int) -> str:
    """Start a process that eats memory."""
    return _eat(mib)


def modest(mib: int) -> str:
    """Start a process that eats little memory."""
    return _eat(mib)


def _eat(mib: int) -> str:
    code = f"x = bytearray({mib} << 20); print(len(x))"
    return subprocess.run([sys.executable, "-ISc", code], capture_output=True, text=True).stdout


def _kickoff(*turns: Turn, react: bool) -> tuple[str, list[Any]]:
    """Run a crew of one agent; return its answer and the last input of its model."""
    from crewai import Agent, Crew, Task
    from crewai.tools import tool

    model = crewai_model(*turns, react=react)
    agent = Agent(
        role="analyst", goal="Go.", backstory="Old.", llm=model, tools=[tool(hungry), tool(modest)]
    )
    task = Task(description="Do it.", expected_output="Done.", agent=agent)
    output = Crew(agents=[agent], tasks=[task]).kickoff()
    return output.raw, model.seen[-1]


@pytest.mark.parametrize("react", [False, True], ids=["native", "react"])
def test_a_call_over_its_memory_max_dies_alone(
    registered: Callable[..., Session], react: bool
) -> None:
    """One tool is OOM-killed, the other (beside it, or after it) is ok, the crew answers."""
    session = registered("crewai", limits={"call": {"memory_max": LIMIT}})
    calls = [("hungry", {"mib": 500}), ("modest", {"mib": 4})]
    turns = [[call] for call in calls] if react else [calls]
    answer, sent = _kickoff(*turns, "I go on.", react=react)

    assert answer == "I go on."
    died, lived = sorted(session.records, key=lambda record: record.tool)
    assert (died.tool, died.outcome, died.reason) == ("hungry", "oom", "memory_max")
    assert died.agent == lived.agent == "analyst"
    assert died.memory_peak_bytes is not None
    assert abs(died.memory_peak_bytes - LIMIT) <= MiB
    assert died.oom_kills
    assert (lived.outcome, lived.reason, lived.oom_kills) == ("ok", None, 0)
    told = "\n".join(str(message["content"]) for message in sent)
    assert told.count("memory limit of 64 MiB (memory_max)") == 1
    assert str(4 * MiB) in told
    assert processes_below(session) == []
