"""What of a CrewAI tool is its body.

The body of a tool made of a function is that function; of a subclass of `BaseTool` its `_run` or
`_arun`; of a `CrewStructuredTool`, which the ReAct executors run, its function, which mostly is one
of these. Validation, usage counts and caches stay in the app.
"""

from __future__ import annotations

import inspect
import threading
from typing import Any, Final

from agentcgroup.bodies import Body, StandIn, is_a, placed
from agentcgroup.bound import Afresh
from agentcgroup.calls import Call
from agentcgroup.errors import Unshippable

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
    function = getattr(tool, "func", None)
    owner = getattr(function, "__self__", None) if inspect.ismethod(function) else None
    if function is not None and hasattr(owner, "args_schema"):
        # A CrewStructuredTool made of another tool runs that one's `_run`.
        inner = bodies(owner)
        return {"func": inner.get("func") or inner[function.__name__]}
    if function is not None:
        return {"func": Body(function)}
    own = type(tool)._arun.__module__ != "crewai.tools.base_tool"
    barred = _barred(tool)
    return {
        name: Body(getattr(tool, name), tool, _LEFT, barred)
        for name in (("_run", "_arun") if own else ("_run",))
    }


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
