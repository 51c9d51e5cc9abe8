"""LangChain, LangGraph and deepagents: every tool of theirs ends in `BaseTool.run` or `arun`.

Covered, exactly once per call: `create_agent`, `create_react_agent`, a hand-made `ToolNode`,
middleware that retries (each attempt is a call), deepagents' ``execute``, MCP tools, the classic
AgentExecutor, and `invoke`, `ainvoke`, `run`, `arun` by user code. Not covered: provider-side
tools, which run elsewhere, and a persistent shell that a middleware starts before any call.

Three layers, each in its module: `identity` (who), `seams` (where), `answer` (what the model gets).
"""

from __future__ import annotations

import logging
from types import ModuleType
from typing import Final

import wrapt
from agentcgroup.adapters.langchain import seams

__all__ = ["FRAMEWORK", "REQUIRES", "install"]

logger = logging.getLogger("agentcgroup")

FRAMEWORK: Final = "langchain"
#: The versions whose seams were tried.
REQUIRES: Final = "langchain-core>=0.3"

_installed = False


def install() -> None:
    """Hook the seams when langchain-core is imported, or now if it is; never imports it."""
    global _installed
    if not _installed:
        _installed = True
        for module in seams.MODULES:
            wrapt.register_post_import_hook(_hook, module)


def _hook(module: ModuleType) -> None:
    """Hook one module; an error of ours must not fail the user's import."""
    try:
        seams.hook(module)
    except Exception:
        logger.exception(
            "agentcgroup: tools of LangChain are NOT contained: %s could not be hooked",
            module.__name__,
        )
