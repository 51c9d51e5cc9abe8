"""A tool that starts no process: its overhead is that of the hook alone."""

from __future__ import annotations

from typing import Any

from langchain_core.tools import tool

from agentcgroup.errors import AgentCgroupError
from benchmarks.harness.sampling import Rhythm, Variant, sample
from benchmarks.overhead.switch import Switch

_CALL: dict[str, Any] = {
    "type": "tool_call",
    "name": "add",
    "args": {"a": 1, "b": 2},
    "id": "call-1",
}


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def measure(runs: int) -> dict[str, list[float]]:
    """Return the seconds of each call, with agentcgroup and without it."""
    switch = Switch()
    try:
        variants = [
            Variant("plain", _run, before=switch.off),
            Variant("agentcgroup", _run, before=switch.on),
        ]
        seconds = sample(variants, Rhythm(gap=0, warm=3, counted=20), runs)
        if len(switch.session.records) < runs:
            raise AgentCgroupError("calls have no record: agentcgroup was not measured")
    finally:
        switch.close()
    return seconds


def _run() -> None:
    add.invoke(_CALL)
