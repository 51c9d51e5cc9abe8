"""LangChain, LangGraph and deepagents: every tool of theirs ends in `BaseTool.run` or `arun`.

Covered, exactly once per call: `create_agent`, `create_react_agent`, a hand-made `ToolNode`,
middleware that retries (each attempt is a call), deepagents' ``execute``, MCP tools, the classic
AgentExecutor, and `invoke`, `ainvoke`, `run`, `arun` by user code. Not covered: provider-side
tools, which run elsewhere, and a persistent shell that a middleware starts before any call.

Four layers, each in its module: `identity` (who), `seams` (where), `body` (what may run in another
process), `answer` (what the model gets).
"""

from __future__ import annotations

from typing import Final

from agentcgroup.frameworks import hooks

__all__ = ["FRAMEWORK", "REQUIRES", "install"]

FRAMEWORK: Final = "langchain"
#: The versions whose seams were tried.
REQUIRES: Final = "langchain-core>=0.3"


def install() -> None:
    """Hook the seams once langchain-core is imported, or now if it is; never imports it."""
    hooks.when_imported(("langchain_core",), _hook, "tools of LangChain are NOT contained")


def _hook(_package: str) -> None:
    """Load the rest of this adapter, which a program without LangChain has no use for."""
    from agentcgroup.adapters.langchain import seams

    hooks.when_imported(seams.MODULES, seams.hook, "tools of LangChain are NOT contained")
