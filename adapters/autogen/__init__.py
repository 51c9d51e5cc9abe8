"""AutoGen: tool calls of `AssistantAgent`, tools run by anything else, code of `CodeExecutorAgent`.

Covered, exactly once per call: plain, streaming and MCP tools of an AssistantAgent, alone, in a
team or as an `AgentTool` or `TeamTool` of another; tools run by `ToolAgent`, by the agents of
autogen-ext or by user code (`run_json`, `run_json_stream`); code blocks of CodeExecutorAgent, where
the time a human takes to approve counts as the call's. Handoffs are no calls. Not covered: tools
that run elsewhere (Docker, hosted agents), MCP servers and Jupyter kernels, which outlive the calls
they serve (a call to one is timed and recorded), and a code executor used directly.

Its modules: `identity` (agent, tool and id of a call), `seams` (the wrapped methods), made of
`agent_calls` (those of agents), `tool_calls` (those of tools) and `cancellation`, `body` (the
tool's own code, which may run in another process), `answer` (what the model gets after a limit).
"""

from __future__ import annotations

from typing import Final

from agentcgroup.adapter import FrameworkAdapter, Parts

__all__ = ["adapter"]


def _parts() -> Parts:
    from agentcgroup.adapters.autogen import body, seams

    return Parts(seams.SEAMS, body.owns, body.bodies)


adapter: Final = FrameworkAdapter(
    name="autogen",
    requires="autogen-agentchat>=0.5.7",
    packages=("autogen_core", "autogen_agentchat", "autogen_ext"),
    parts=_parts,
    lost="tools of AutoGen are NOT contained",
)
