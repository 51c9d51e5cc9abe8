"""Reads agent, tool and tool_call_id of a call from what `BaseTool.run` is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentcgroup.adapter import Identity

__all__ = ["identify"]


def identify(tool: Any, arguments: Mapping[str, Any]) -> Identity:
    """Read the identity from the tool and the keyword arguments of `run` or `arun`.

    The agent is ``metadata["lc_agent_name"]``, set by create_agent(name=) and deepagents. Without
    it the agent is None, and the `agentcgroup.agent` block around the call names it, if there is
    one.
    """
    metadata = arguments.get("metadata") or (arguments.get("config") or {}).get("metadata")
    agent = metadata.get("lc_agent_name") if metadata else None
    call_id = arguments.get("tool_call_id")
    return (
        agent if isinstance(agent, str) else None,
        str(tool.name),
        call_id if isinstance(call_id, str) else None,
    )
