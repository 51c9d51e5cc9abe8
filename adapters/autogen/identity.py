"""Reads agent, tool and tool_call_id of a call from what the wrapped method is given.

Each function takes the object that the method runs and the method's arguments by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from agentcgroup.adapter import Identity

__all__ = ["CODE", "of_code", "of_request", "of_tool"]

#: The tool's name in records and rules for code that an agent runs without a tool.
CODE: Final = "execute_code_block"


def of_request(tool_call: Any, arguments: Mapping[str, Any]) -> Identity:
    """Read the identity from a `FunctionCall` that a model sent to an AssistantAgent."""
    return arguments.get("agent_name"), tool_call.name, tool_call.id


def of_tool(tool: Any, arguments: Mapping[str, Any]) -> Identity:
    """Read the identity from a tool that is run directly, which has no agent."""
    return None, tool.name, arguments.get("call_id")


def of_code(agent: Any, _: Mapping[str, Any]) -> Identity:
    """Read the identity from the agent that runs code blocks."""
    return agent.name, CODE, None
