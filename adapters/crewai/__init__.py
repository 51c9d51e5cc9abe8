"""CrewAI: every tool call ends in one of six methods, and exactly one of them runs per call.

Covered: native function calling (also in parallel), ReAct text, planning steps, async tools,
delegation (the coworker's calls are inside the delegating one), MCP tools, Flows, `Agent.kickoff`,
all forms of `Crew.kickoff`, and `run`, `arun`, `invoke`, `ainvoke` by user code. Not covered: the
OpenAI-agents adapter, which calls `_run` itself, and tools that run at a provider.

Its modules: `identity` (agent, tool and id of a call), `seams` (the wrapped methods), `body` (the
tool's own code, which may run in another process), `answer` (what the model gets after a limit).
"""

from __future__ import annotations

from typing import Final

from agentcgroup.adapter import FrameworkAdapter, Parts

__all__ = ["adapter"]


def _parts() -> Parts:
    from agentcgroup.adapters.crewai import body, identity, seams

    return Parts(seams.SEAMS, body.owns, body.bodies, install_more=identity.install)


adapter: Final = FrameworkAdapter(
    name="crewai",
    requires="crewai>=1.10.1",
    packages=("crewai",),
    parts=_parts,
    lost="tools of CrewAI are NOT contained",
)
