"""LangChain, LangGraph and deepagents: every tool of theirs runs in `BaseTool.run` or `arun`.

Covered, exactly once per call: `create_agent`, `create_react_agent`, a hand-made `ToolNode`,
middleware that retries (each attempt is a call), deepagents' ``execute``, MCP tools, the classic
AgentExecutor, and `invoke`, `ainvoke`, `run`, `arun` by user code. Not covered: provider-side
tools, which run elsewhere, and a persistent shell that a middleware starts before any call.

Its modules: `identity` (agent, tool and id of a call), `seams` (the wrapped methods), `body` (the
tool's own code, which may run in another process), `answer` (what the model gets after a limit).
"""

from __future__ import annotations

from typing import Final

from agentcgroup.adapter import FrameworkAdapter, Parts

__all__ = ["adapter"]


def _parts() -> Parts:
    from agentcgroup.adapters.langchain import body, seams

    return Parts(seams.SEAMS, body.owns, body.bodies)


adapter: Final = FrameworkAdapter(
    name="langchain",
    requires="langchain-core>=0.3",
    packages=("langchain_core",),
    parts=_parts,
    lost="tools of LangChain are NOT contained",
)
