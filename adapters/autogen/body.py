"""The body of an AutoGen tool, and substitutes for arguments that a worker cannot be sent.

A `FunctionTool` has its function for its body; another subclass of `BaseTool` has its `run`.
AutoGen checks arguments, emits events and makes the text of the result in the app's process. A
worker cannot run tools that use a live connection (those of an `McpWorkbench`), and tools that run
agents and stream their messages (`AgentTool`, `TeamTool`).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Final

from agentcgroup.adapter import (
    MCP_SERVER,
    Afresh,
    Body,
    Call,
    Crossing,
    StandIn,
    Unshippable,
    is_a,
    keep_inline,
    metered,
    placed,
)

__all__ = ["bodies", "keep_stream_inline", "keep_workbench_inline", "owns", "stand_in"]

#: The module that defines `FunctionTool`.
_FUNCTION_TOOL: Final = "autogen_core.tools._function_tool"
#: The tools that run agents; before 0.6.2 they did not stream.
_RUN_AGENTS: Final = frozenset({"AgentTool", "TeamTool"})


def owns(tool: Any) -> bool:
    """Return whether `tool` is a tool object of AutoGen."""
    return is_a(tool, "autogen_core.tools", "BaseTool")


def bodies(tool: Any) -> dict[str, Body]:
    """Return the body of a tool by the name of its attribute."""
    if _is_made_of_function(tool):
        return {"_func": Body(tool._func)}
    outside = MCP_SERVER if _connects(tool) else ""
    return {"run": Body.of_method(tool, "run", barred=_unshippable(tool), outside=outside)}


def stand_in(call: Call, tool: Any) -> Any:
    """Return what `BaseTool.run_json` runs in place of `tool`."""
    if call.policy.isolation != "process":
        return _metered(call, tool)
    found = {name: placed(call, body, _CROSSING) for name, body in bodies(tool).items()}
    return StandIn(tool, () if "run" in found else ("run",), **found)


def _metered(call: Call, tool: Any) -> Any:
    """Return a tool whose sync function, which AutoGen runs in a thread, is measured there."""
    kind = type(tool)  # and no subclass, which may do anything with its function
    if kind.__module__ != _FUNCTION_TOOL or inspect.iscoroutinefunction(tool._func):
        return tool
    return StandIn(tool, ("run",), _func=metered(call, tool._func))


def keep_stream_inline(call: Call, tool: Any) -> None:
    """Let a streaming tool run inline where the policy asks for a process and allows that.

    Raises:
        Unshippable: the policy does not allow that.
    """
    if call.policy.isolation == "process":
        keep_inline(call, _streams(tool))


async def keep_workbench_inline(call: Call, arguments: Mapping[str, Any]) -> None:
    """As `keep_stream_inline`, for a tool of a workbench that has no tool objects."""
    if call.policy.isolation != "process":
        return
    found = arguments.get("workbench") or ()
    for workbench in found if isinstance(found, list | tuple) else (found,):
        if hasattr(workbench, "_tools"):  # a StaticWorkbench, which runs its tools by `run_json`
            continue
        if any(one["name"] == call.tool for one in await workbench.list_tools()):
            kind = f"{type(workbench).__module__}.{type(workbench).__qualname__}"
            why = "it runs its tools itself, over a connection that lives in the app"
            keep_inline(call, Unshippable(f"the workbench of tool {call.tool!r}", kind, why))


def _connects(tool: Any) -> bool:
    """Return whether each call of a tool starts an MCP server, or connects to one, by itself."""
    is_mcp = any(base.__name__ == "McpToolAdapter" for base in type(tool).__mro__)
    return is_mcp and getattr(tool, "_session", None) is None


def _is_made_of_function(tool: Any) -> bool:
    # By the module that defines `run`, since a subclass may have a `run` of its own.
    module: str = type(tool).run.__module__
    return module == _FUNCTION_TOOL


def _unshippable(tool: Any) -> Unshippable | None:
    """Return why a tool cannot go to a worker, None where it can."""
    runs_agents = any(base.__name__ in _RUN_AGENTS for base in type(tool).__mro__)
    return _streams(tool) if runs_agents or hasattr(tool, "run_json_stream") else None


def _streams(tool: Any) -> Unshippable:
    kind = f"{type(tool).__module__}.{type(tool).__qualname__}"
    why = "what it runs and streams lives in the app"
    return Unshippable(f"tool {tool.name!r}", kind, why)


def _argument(value: Any) -> Any:
    """Replace a token: the worker makes one, and a cancellation of the app's ends the worker."""
    return Afresh(type(value)) if is_a(value, "autogen_core", "CancellationToken") else value


_CROSSING: Final = Crossing(argument=_argument)
