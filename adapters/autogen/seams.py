"""The wrapped methods.

`AssistantAgent._execute_tool_call` is the one method that is given the agent and the tool call,
whatever workbench the tool is in. Tools also run without it: `BaseTool.run_json` and
`run_json_stream` are wrapped too, and pass through inside the call of the same tool. Code blocks
are no tools: they run in `execute_code_block`.

The classes are taken from the public packages, since the modules below them have moved before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from agentcgroup.adapter import Seam, cancels_calls_of_stream, outside_calls
from agentcgroup.adapters.autogen.agent_calls import execute_code_block, execute_tool_call
from agentcgroup.adapters.autogen.tool_calls import run_json, run_json_stream

__all__ = ["SEAMS"]

SEAMS: Final[Mapping[str, Sequence[Seam]]] = {
    "autogen_agentchat.agents": (
        Seam(
            "AssistantAgent._execute_tool_call",
            execute_tool_call,
            "MCP tools are NOT contained, and other tools of agents belong to no agent",
        ),
        # Since 0.6.2 the calls of an agent run in tasks that a cancellation of its own task does
        # not reach.
        Seam(
            "AssistantAgent.on_messages_stream",
            cancels_calls_of_stream,
            "a tool's processes run on when the task of its agent is cancelled",
        ),
        Seam(
            "CodeExecutorAgent.execute_code_block",
            execute_code_block,
            "code that CodeExecutorAgent runs is NOT contained",
        ),
    ),
    "autogen_core.tools": (
        Seam(
            "BaseTool.run_json",
            run_json,
            "tools that other agents than AssistantAgent run are NOT contained",
        ),
        Seam(
            "BaseStreamTool.run_json_stream",
            run_json_stream,
            "streaming tools that other agents than AssistantAgent run are NOT contained",
            is_optional=True,  # AutoGen before 0.6.2 has no streaming tools
        ),
    ),
    "autogen_ext.tools.mcp": (
        # The server serves later calls, too.
        Seam(
            "McpWorkbench.start",
            outside_calls,
            "an MCP server that a call happens to start ends with that call",
        ),
    ),
}
