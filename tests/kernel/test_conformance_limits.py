"""Limits of agents, the same for every framework: the rows that need real controllers.

The columns are those of tests/frameworks/conformance; each framework is imported when its first
test runs, since that takes long in an emulated machine.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from agentcgroup import Session
from tests.frameworks.conformance.driver import DRIVERS, load
from tests.kernel.support import MiB, processes_below

LIMIT = 64 * MiB


def hungry(mib: int) -> str:
    """Start a process that eats memory; whether it lives, nobody asks."""
    return _eat(mib).stdout


def strict(mib: int) -> str:
    """Start a process that eats memory, and fail when it fails."""
    done = _eat(mib)
    done.check_returncode()
    return done.stdout


def _eat(mib: int) -> subprocess.CompletedProcess[str]:
    code = f"print('eating', flush=True); x = bytearray({mib} << 20); print(len(x))"
    return subprocess.run([sys.executable, "-ISc", code], capture_output=True, text=True)


@pytest.mark.parametrize("column", DRIVERS)
def test_oom(registered: Callable[..., Session], column: str) -> None:
    """A call over its memory_max ends alone, with one sentence, and does not run again.

    Whether the tool hides it in a result or raises.
    """
    driver = load(column)
    session = registered(driver.framework, limits={"call": {"memory_max": LIMIT}})
    turns = [[("hungry", {"mib": 500})], [("strict", {"mib": 500})], [("strict", {"mib": 4})]]
    reply = driver.run(driver.build(*turns, "went on", tools=[hungry, strict]))

    assert reply.text == "went on"
    *died, lived = session.records
    assert [(record.tool, record.outcome, record.reason) for record in died] == [
        ("hungry", "oom", "memory_max"),
        ("strict", "oom", "memory_max"),
    ]
    for record, answer in zip(died, reply.answers, strict=False):
        assert record.oom_kills
        assert record.memory_peak_bytes is not None
        assert abs(record.memory_peak_bytes - LIMIT) <= MiB
        assert answer.failed is driver.marks_errors
        assert answer.text.startswith("eating\n")
        assert answer.text.count("memory limit of 64 MiB (memory_max)") == 1
    assert (lived.outcome, lived.oom_kills) == ("ok", 0)
    assert str(4 * MiB) in reply.answers[-1].text
    assert processes_below(session) == []


@pytest.mark.parametrize("column", ["langchain-sync", "autogen-agent", "crewai-native"])
def test_two_agents_side_by_side(registered: Callable[..., Session], column: str) -> None:
    """One agent eats until its agent's limit; the other's calls are ok and lose no process."""
    driver = load(column)
    session = registered(driver.framework, limits={"agent": {"memory_max": LIMIT}})
    greedy = driver.build([("hungry", {"mib": 500})], "went on", tools=[hungry], name="greedy")
    meals: list[Any] = [[("hungry", {"mib": 4 + number})] for number in range(3)]
    modest = driver.build(*meals, "had enough", tools=[hungry], name="modest")
    with ThreadPoolExecutor() as pool:
        first, second = pool.map(driver.run, (greedy, modest))

    assert (first.text, second.text) == ("went on", "had enough")
    (died,) = [record for record in session.records if record.agent == "greedy"]
    lived = [record for record in session.records if record.agent == "modest"]
    assert (died.outcome, died.reason) == ("oom", "agent.memory_max")
    assert "the memory limit of all calls of this agent was reached" in first.answers[0].text
    assert [(record.outcome, record.oom_kills) for record in lived] == [("ok", 0)] * 3
    assert [answer.failed for answer in second.answers] == [False] * 3
    assert processes_below(session) == []
