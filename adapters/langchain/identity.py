"""Whose call it is, read from what `BaseTool.run` is given. Best effort: never raises."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["Identity", "identify"]

logger = logging.getLogger("agentcgroup")


class Identity(NamedTuple):
    """Names as the framework and the model gave them."""

    agent: str | None
    tool: str
    tool_call_id: str | None


def identify(tool: Any, arguments: Mapping[str, Any]) -> Identity:
    """Read the identity from the tool and the keyword arguments of `run` or `arun`.

    The agent is ``metadata["lc_agent_name"]``, set by create_agent(name=) and deepagents; without
    it None, and the call belongs to the `agentcgroup.agent` block around it, if any.
    """
    try:
        metadata = arguments.get("metadata") or (arguments.get("config") or {}).get("metadata")
        agent = metadata.get("lc_agent_name") if metadata else None
        call_id = arguments.get("tool_call_id")
        return Identity(
            agent if isinstance(agent, str) else None,
            str(tool.name),
            call_id if isinstance(call_id, str) else None,
        )
    except Exception:
        logger.exception("agentcgroup: the identity of a tool call could not be read")
        return Identity(None, type(tool).__name__, None)
