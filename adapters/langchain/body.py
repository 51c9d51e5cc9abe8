"""What of a LangChain tool is its body, and what goes to a worker in place of its arguments.

The body of a tool made of a function is that function; of a subclass of `BaseTool` its `_run` or
`_arun`. Validation, callbacks, error handling and the making of the message stay in the app.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Final

from agentcgroup.calls.call import Call
from agentcgroup.isolation.bodies import Body, StandIn, is_a, placed
from agentcgroup.isolation.substitutes import Absent, Afresh, silent

__all__ = ["bodies", "owns", "stand_in"]

#: What of a tool its body has no use for and may not be picklable, with what is sent instead.
_LEFT: Final = {
    "args_schema": None,
    "callbacks": None,
    "handle_tool_error": False,
    "handle_validation_error": False,
    "_tool_call_schema_memo": None,
}
#: Keys of a RunnableConfig that live in the app, and how LangGraph's own begin.
_LIVE: Final = ("callbacks",)
_LANGGRAPH: Final = "__pregel_"


def owns(tool: Any) -> bool:
    """Say whether this is a tool of LangChain."""
    return is_a(tool, "langchain_core.tools.base", "BaseTool")


def bodies(tool: Any) -> dict[str, Body]:
    """Return the bodies of a tool, sync and async, by the names under which it has them."""
    if not _is_made_of_function(tool):
        own = type(tool)._arun.__module__ != "langchain_core.tools.base"
        return {
            name: Body.of_method(tool, name, _LEFT)
            for name in (("_run", "_arun") if own else ("_run",))
        }
    found = {name: getattr(tool, name, None) for name in ("func", "coroutine")}
    return {name: Body(function) for name, function in found.items() if function is not None}


def stand_in(call: Call, tool: Any, arguments: Mapping[str, Any]) -> Any:
    """Return what `BaseTool.run` and `arun` run in place of `tool`, given their `arguments`."""
    if call.policy.isolation != "process":
        return tool
    config = arguments.get("config")

    def crossing(value: Any) -> Any:
        return _portable(config) if config is not None and value is config else _crossing(value)

    found = {name: placed(call, body, crossing) for name, body in bodies(tool).items()}
    # What is the framework's own calls the bodies: on the stand-in it finds those of this call.
    return StandIn(tool, [name for name in ("_run", "_arun") if name not in found], **found)


def _is_made_of_function(tool: Any) -> bool:
    """Say whether its `_run` is the framework's own, which calls a function of the tool's."""
    # Where it is defined: a subclass may have a `_run` of its own.
    return hasattr(tool, "func") and type(tool)._run.__module__.startswith("langchain_core.tools.")


def _crossing(value: Any) -> Any:
    """Return what goes to the worker in place of an argument that LangChain has injected.

    A run manager is an inert one there: its callbacks are in the app. A `ToolRuntime` keeps state,
    context, config and id; its stream writer is silent, its store absent.
    """
    if is_a(value, "langchain_core.callbacks.base", "BaseCallbackManager"):
        manager: Callable[..., Any] = type(value)
        return Afresh(functools.partial(manager, handlers=[]))
    if is_a(value, "langchain_core.callbacks.manager", "BaseRunManager"):
        return Afresh(type(value).get_noop_manager)
    if is_a(value, "langgraph.store.base", "BaseStore"):
        return Absent("the graph's store")
    if is_a(value, "langgraph.prebuilt.tool_node", "ToolRuntime"):
        return _portable_runtime(value)
    return value


def _portable_runtime(runtime: Any) -> Any:
    changes: dict[str, Any] = {
        "config": _portable(runtime.config),
        "store": None if runtime.store is None else Absent("the graph's store"),
        "stream_writer": silent,
    }
    if hasattr(runtime, "tools"):
        changes["tools"] = []
    return dataclasses.replace(runtime, **changes)


def _portable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a RunnableConfig without what lives in the app: callbacks, and LangGraph's own."""
    portable = {key: value for key, value in config.items() if key not in _LIVE}
    own = portable.get("configurable")
    if own:
        portable["configurable"] = {
            key: value for key, value in own.items() if not str(key).startswith(_LANGGRAPH)
        }
    return portable
