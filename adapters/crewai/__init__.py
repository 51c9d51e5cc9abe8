"""CrewAI: every tool call ends in one of six methods, and exactly one of them runs per call.

Covered: native function calling (also in parallel), ReAct text, planning steps, async tools,
delegation (the coworker's calls are inside the delegating one), MCP tools, Flows, `Agent.kickoff`,
all forms of `Crew.kickoff`, and `run`, `arun`, `invoke`, `ainvoke` by user code. Not covered: the
OpenAI-agents adapter, which calls `_run` itself, and tools that run at a provider.

Four layers, each in its module: `identity` (who), `seams` (where), `body` (what may run in another
process), `answer` (what the model gets).
"""

from __future__ import annotations

from typing import Final

from agentcgroup.frameworks import hooks

__all__ = ["FRAMEWORK", "REQUIRES", "install"]

FRAMEWORK: Final = "crewai"
#: The versions whose seams were tried.
REQUIRES: Final = "crewai>=1.10.1"


def install() -> None:
    """Hook the seams once crewai is imported, or now if it is; never imports it. Idempotent."""
    hooks.when_imported(("crewai",), _hook, "tools of CrewAI are NOT contained")


def _hook(_package: str) -> None:
    """Load the rest of this adapter, which a program without CrewAI has no use for."""
    from agentcgroup.adapters.crewai import identity, seams

    modules = ("asyncio", *seams.MODULES)
    hooks.when_imported(modules, seams.hook, "tools of CrewAI are NOT contained")
    hooks.when_imported(
        identity.MODULES, identity.hook, "calls of CrewAI have no agent or no tool_call_id"
    )
