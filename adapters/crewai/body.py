"""The body of a CrewAI tool.

A tool made of a function has this function for its body; a subclass of `BaseTool` has its `_run`
and `_arun`; a `CrewStructuredTool`, which the ReAct executors run, has its function, which mostly
is the `_run` of another tool. CrewAI validates arguments, counts usage and caches in the app's
process.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, Final

from agentcgroup.adapter import MCP_SERVER, Afresh, Body, Call, StandIn, Unshippable, is_a, placed

__all__ = ["bodies", "owns", "stand_in"]

#: Attributes of a tool that its body does not use and that may not be picklable, with the values
#: that are sent instead.
_LEFT: Final = {
    "args_schema": None,
    "result_schema": None,
    "cache_function": None,
    "_usage_lock": Afresh(threading.Lock),
}
#: The tools whose calls each start an MCP server, or connect to one.
_MCP: Final = frozenset({"MCPNativeTool", "MCPToolWrapper"})


def owns(tool: Any) -> bool:
    """Return whether `tool` is a tool object of CrewAI."""
    return is_a(tool, "crewai.tools.base_tool", "BaseTool") or is_a(
        tool, "crewai.tools.structured_tool", "CrewStructuredTool"
    )


def bodies(tool: Any) -> dict[str, Body]:
    """Return the bodies of a tool, sync and async, by the names of their attributes."""
    if is_a(tool, "crewai.tools.structured_tool", "CrewStructuredTool"):
        return {"func": _function_of_structured(tool.func)}
    if is_a(tool, "crewai.tools.base_tool", "Tool"):
        return {"func": Body(tool.func)}
    names = ("_run", "_arun") if _overrides(tool, "_arun") else ("_run",)
    return {name: _method(tool, name) for name in names}


def _function_of_structured(function: Any) -> Body:
    """Return the body of a structured tool with this function, mostly `_run` of another tool."""
    owner = getattr(function, "__self__", None)
    if owner is None or not owns(owner):
        return Body(function)
    if is_a(owner, "crewai.tools.base_tool", "Tool") and not _overrides(owner, "_run"):
        return Body(owner.func)
    return _method(owner, function.__name__)


def _method(tool: Any, name: str) -> Body:
    is_mcp = any(base.__name__ in _MCP for base in type(tool).__mro__)
    return Body.of_method(tool, name, _LEFT, _unshippable(tool), MCP_SERVER if is_mcp else "")


def _overrides(tool: Any, method: str) -> bool:
    module: str = getattr(type(tool), method).__module__
    return module != "crewai.tools.base_tool"


def stand_in(call: Call, tool: Any, _arguments: Mapping[str, Any]) -> Any:
    """Return what the six methods run in place of `tool`, in an isolated call."""
    found = {name: placed(call, body) for name, body in bodies(tool).items()}
    # CrewAI's own methods call the function: bound to the stand-in they find that of this call.
    bound = [name for name in ("_run", "_arun") if "func" in found and hasattr(tool, name)]
    return StandIn(tool, bound, **found)


def _unshippable(tool: Any) -> Unshippable | None:
    """Return why a tool that runs other agents cannot go to a worker; None for other tools."""
    if any(base.__name__ == "BaseAgentTool" for base in type(tool).__mro__):
        kind = f"{type(tool).__module__}.{type(tool).__qualname__}"
        return Unshippable(f"tool {tool.name!r}", kind, "it runs agents, which live in the app")
    return None
