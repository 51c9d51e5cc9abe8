"""What of an AutoGen tool is its body, and what goes to a worker in place of its arguments.

The body of a `FunctionTool` is its function; of another subclass of `BaseTool` its `run`. The check
of the arguments, events and the text of the result stay in the app. What is a live connection (the
tools of an `McpWorkbench`), or runs agents and streams what they say (`AgentTool`, `TeamTool`), is
not for another process.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Final

from agentcgroup.calls.call import Call
from agentcgroup.calls.inline_usage import metered
from agentcgroup.errors import Unshippable
from agentcgroup.isolation.bodies import Body, StandIn, is_a, keep_inline, placed
from agentcgroup.isolation.substitutes import Afresh

__all__ = ["bar_stream", "bar_workbench", "bodies", "owns", "stand_in"]

#: Where `FunctionTool` is defined.
_FUNCTION_TOOL: Final = "autogen_core.tools._function_tool"
#: Tools that run agents; before 0.6.2 they did not stream.
_RUN_AGENTS: Final = frozenset({"AgentTool", "TeamTool"})


def owns(tool: Any) -> bool:
    """Say whether this is a tool of AutoGen."""
    return is_a(tool, "autogen_core.tools", "BaseTool")


def bodies(tool: Any) -> dict[str, Body]:
    """Return the body of a tool by the name under which it has it."""
    if _is_made_of_function(tool):
        return {"_func": Body(tool._func)}
    return {"run": Body.of_method(tool, "run", barred=_barred(tool))}


def stand_in(call: Call, tool: Any) -> Any:
    """Return what `BaseTool.run_json` runs in place of `tool`."""
    if call.policy.isolation != "process":
        return _metered(call, tool)
    found = {name: placed(call, body, _crossing) for name, body in bodies(tool).items()}
    return StandIn(tool, () if "run" in found else ("run",), **found)


def _metered(call: Call, tool: Any) -> Any:
    """Have a sync function, which AutoGen runs in a thread, say what it uses of it."""
    kind = type(tool)  # exactly: what a subclass does with its function is not known
    if kind.__module__ != _FUNCTION_TOOL or inspect.iscoroutinefunction(tool._func):
        return tool
    return StandIn(tool, ("run",), _func=metered(call, tool._func))


def bar_stream(call: Call, tool: Any) -> None:
    """Refuse a streaming tool a process, or let it run inline if the policy says so.

    Raises:
        Unshippable: the policy says error.
    """
    if call.policy.isolation == "process":
        keep_inline(call, _streams(tool))


async def bar_workbench(call: Call, arguments: Mapping[str, Any]) -> None:
    """Refuse a process to a tool of a workbench that has no tool objects, as `bar_stream` does."""
    if call.policy.isolation != "process":
        return
    found = arguments.get("workbench") or ()
    for workbench in found if isinstance(found, list | tuple) else (found,):
        if hasattr(workbench, "_tools"):  # a StaticWorkbench, whose tools come to `run_json`
            continue
        if any(one["name"] == call.tool for one in await workbench.list_tools()):
            kind = f"{type(workbench).__module__}.{type(workbench).__qualname__}"
            why = "it runs its tools itself, over a connection that lives in the app"
            keep_inline(call, Unshippable(f"the workbench of tool {call.tool!r}", kind, why))


def _is_made_of_function(tool: Any) -> bool:
    # Where it is defined: a subclass may have a `run` of its own.
    module: str = type(tool).run.__module__
    return module == _FUNCTION_TOOL


def _barred(tool: Any) -> Unshippable | None:
    runs_agents = any(base.__name__ in _RUN_AGENTS for base in type(tool).__mro__)
    return _streams(tool) if runs_agents or hasattr(tool, "run_json_stream") else None


def _streams(tool: Any) -> Unshippable:
    kind = f"{type(tool).__module__}.{type(tool).__qualname__}"
    why = "what it runs and streams lives in the app"
    return Unshippable(f"tool {tool.name!r}", kind, why)


def _crossing(value: Any) -> Any:
    """Give the worker a token of its own; cancelling that of the app ends the worker."""
    return Afresh(type(value)) if is_a(value, "autogen_core", "CancellationToken") else value
