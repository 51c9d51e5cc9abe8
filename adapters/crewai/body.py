"""What of a CrewAI tool is its body.

The body of a tool made of a function is that function; of a subclass of `BaseTool` its `_run` or
`_arun`; of a `CrewStructuredTool`, which the ReAct executors run, its function, which mostly is one
of these. Validation, usage counts and caches stay in the app.
"""

from __future__ import annotations

import threading
from typing import Any, Final

from agentcgroup.calls.call import Call
from agentcgroup.errors import Unshippable
from agentcgroup.isolation.bodies import Body, StandIn, is_a, placed
from agentcgroup.isolation.substitutes import Afresh

__all__ = ["bodies", "owns", "stand_in"]

#: What of a tool its body has no use for and may not be picklable, with what is sent instead.
_LEFT: Final = {
    "args_schema": None,
    "result_schema": None,
    "cache_function": None,
    "_usage_lock": Afresh(threading.Lock),
}


def owns(tool: Any) -> bool:
    """Say whether this is a tool of CrewAI."""
    return is_a(tool, "crewai.tools.base_tool", "BaseTool") or is_a(
        tool, "crewai.tools.structured_tool", "CrewStructuredTool"
    )


def bodies(tool: Any) -> dict[str, Body]:
    """Return the bodies of a tool, sync and async, by the names under which it has them."""
    if is_a(tool, "crewai.tools.structured_tool", "CrewStructuredTool"):
        return {"func": _beneath(tool.func)}
    if is_a(tool, "crewai.tools.base_tool", "Tool"):
        return {"func": Body(tool.func)}
    names = ("_run", "_arun") if _overrides(tool, "_arun") else ("_run",)
    return {name: Body.of_method(tool, name, _LEFT, _barred(tool)) for name in names}


def _beneath(function: Any) -> Body:
    """Return the body of a structured tool, which mostly is the `_run` of another tool."""
    owner = getattr(function, "__self__", None)
    if owner is None or not owns(owner):
        return Body(function)
    if is_a(owner, "crewai.tools.base_tool", "Tool") and not _overrides(owner, "_run"):
        return Body(owner.func)
    return Body.of_method(owner, function.__name__, _LEFT, _barred(owner))


def _overrides(tool: Any, method: str) -> bool:
    module: str = getattr(type(tool), method).__module__
    return module != "crewai.tools.base_tool"


def stand_in(call: Call, tool: Any) -> Any:
    """Return what the six methods run in place of `tool`."""
    if call.policy.isolation != "process":
        return tool
    found = {name: placed(call, body) for name, body in bodies(tool).items()}
    # What is the framework's own calls the function: on the stand-in it finds that of this call.
    bound = [name for name in ("_run", "_arun") if "func" in found and hasattr(tool, name)]
    return StandIn(tool, bound, **found)


def _barred(tool: Any) -> Unshippable | None:
    """Bar tools that run other agents, whose calls have their own cgroups, by their base class."""
    if any(base.__name__ == "BaseAgentTool" for base in type(tool).__mro__):
        kind = f"{type(tool).__module__}.{type(tool).__qualname__}"
        return Unshippable(f"tool {tool.name!r}", kind, "it runs agents, which live in the app")
    return None
