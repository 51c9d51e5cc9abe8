"""Whose call it is, read from what `BaseTool.run` is given. Best effort: never raises."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from agentcgroup.calls.call import Identity

__all__ = ["identify"]

logger = logging.getLogger("agentcgroup")


def identify(tool: Any, arguments: Mapping[str, Any]) -> Identity:
    """Read the identity from the tool and the keyword arguments of `run` or `arun`.

    The agent is ``metadata["lc_agent_name"]``, set by create_agent(name=) and deepagents; without
    it None, and the call belongs to the `agentcgroup.agent` block around it, if any.
    """
    try:
        metadata = arguments.get("metadata") or (arguments.get("config") or {}).get("metadata")
        agent = metadata.get("lc_agent_name") if metadata else None
        call_id = arguments.get("tool_call_id")
        return (
            agent if isinstance(agent, str) else None,
            str(tool.name),
            call_id if isinstance(call_id, str) else None,
        )
    except Exception:
        logger.exception("agentcgroup: the identity of a tool call could not be read")
        return None, type(tool).__name__, None
