"""Whose call it is, read from what the seam is given. Best effort: never raises."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from agentcgroup.calls.call import Identity

__all__ = ["CODE", "identify", "of_code", "of_request", "of_tool"]

logger = logging.getLogger("agentcgroup")

#: The tool's name in records and rules for code that an agent runs without a tool.
CODE: Final = "execute_code_block"


def identify(
    read: Callable[[Any, Mapping[str, Any]], Identity], source: Any, arguments: Mapping[str, Any]
) -> Identity:
    """Read the identity with one of the functions below, from `source` and the seam's arguments."""
    try:
        return read(source, arguments)
    except Exception:
        logger.exception("agentcgroup: the identity of a tool call could not be read")
        return None, type(source).__name__, None


def of_request(tool_call: Any, arguments: Mapping[str, Any]) -> Identity:
    """Read what a model asked an AssistantAgent for, nested ones included."""
    return arguments.get("agent_name"), tool_call.name, tool_call.id


def of_tool(tool: Any, arguments: Mapping[str, Any]) -> Identity:
    """Read a tool that is run directly: nobody says for which agent."""
    return None, tool.name, arguments.get("call_id")


def of_code(agent: Any, _: Mapping[str, Any]) -> Identity:
    """Read the agent that runs code blocks."""
    return agent.name, CODE, None
