"""AutoGen: tool calls of `AssistantAgent`, tools run by anything else, code of `CodeExecutorAgent`.

Covered, exactly once per call: plain, streaming and MCP tools of an AssistantAgent, alone, in a
team or as an `AgentTool` or `TeamTool` of another; tools run by `ToolAgent`, by the agents of
autogen-ext or by user code (`run_json`, `run_json_stream`); code blocks of CodeExecutorAgent, where
the time a human takes to approve counts as the call's. Handoffs are no calls. Not covered: what
runs elsewhere (Docker, hosted agents), MCP servers and Jupyter kernels, which outlive the calls
they serve (a call to one is timed and recorded), and a code executor used directly.

Four layers, each in its module: `identity` (who), `seams` (where), `body` (what may run in another
process), `answer` (what the model gets).
"""

from __future__ import annotations

from typing import Final

from agentcgroup.frameworks import hooks

__all__ = ["FRAMEWORK", "REQUIRES", "install"]

FRAMEWORK: Final = "autogen"
#: The versions whose seams were tried.
REQUIRES: Final = "autogen-agentchat>=0.5.7"
#: Each with seams of its own, and whichever comes first: inside it the others are imported.
_PACKAGES: Final = ("autogen_core", "autogen_agentchat", "autogen_ext")


def install() -> None:
    """Hook the seams once AutoGen is imported, or now if it is; never imports it. Idempotent."""
    hooks.when_imported(_PACKAGES, _hook, "tools of AutoGen are NOT contained")


def _hook(_package: str) -> None:
    """Load the rest of this adapter, which a program without AutoGen has no use for."""
    from agentcgroup.adapters.autogen import seams

    hooks.when_imported(seams.MODULES, seams.hook, "tools of AutoGen are NOT contained")
