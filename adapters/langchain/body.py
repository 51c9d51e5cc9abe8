"""The body of a LangChain tool, and substitutes for arguments that a worker cannot be sent.

A tool made of a function has this function for its body; a subclass of `BaseTool` has its `_run`
and `_arun`. LangChain validates arguments, calls callbacks, handles errors and makes the message in
the app's process.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from agentcgroup.adapter import (
    MCP_SERVER,
    Absent,
    Afresh,
    Body,
    Call,
    Crossing,
    StandIn,
    Unshippable,
    is_a,
    placed,
    references,
    silent,
)
from agentcgroup.adapters.langchain import graph

__all__ = ["bodies", "owns", "stand_in"]

#: Attributes of a tool that its body does not use and that may not be picklable, with the values
#: that are sent instead.
_LEFT: Final = {
    "args_schema": None,
    "callbacks": None,
    "handle_tool_error": False,
    "handle_validation_error": False,
    "_tool_call_schema_memo": None,
}
#: Keys of a RunnableConfig whose values work in the app alone, and the prefix of LangGraph's own.
_LIVE: Final = ("callbacks",)
_LANGGRAPH: Final = "__pregel_"


def owns(tool: Any) -> bool:
    """Return whether `tool` is a tool object of LangChain."""
    return is_a(tool, "langchain_core.tools.base", "BaseTool")


def bodies(tool: Any) -> dict[str, Body]:
    """Return the bodies of a tool, sync and async, by the names of their attributes."""
    if not _is_made_of_function(tool):
        own = type(tool)._arun.__module__ != "langchain_core.tools.base"
        return {
            name: Body.of_method(tool, name, _LEFT)
            for name in (("_run", "_arun") if own else ("_run",))
        }
    found = {name: getattr(tool, name, None) for name in ("func", "coroutine")}
    return {name: _body(function) for name, function in found.items() if function is not None}


def stand_in(call: Call, tool: Any, arguments: Mapping[str, Any]) -> Any:
    """Return what `BaseTool.run` and `arun` run in place of `tool`, in an isolated call.

    Args:
        call: the call.
        tool: its tool.
        arguments: the keyword arguments of `run` or `arun`.
    """
    config = arguments.get("config")

    may_run_inline = call.policy.on_unshippable == "inline"

    def stand_in_for(body: Body) -> Callable[..., Any]:
        def argument(value: Any) -> Any:
            if config is not None and value is config:
                return _portable(config)
            return _argument(value, body.function, may_run_inline)

        def error(raised: Exception) -> None:
            graph.explain(raised, config)

        missed = graph.needed(tool, body.function, config, may_run_inline=may_run_inline)
        wanted = body if missed is None else dataclasses.replace(body, barred=missed)
        return placed(call, wanted, Crossing(argument, _result, error))

    found = {name: stand_in_for(body) for name, body in bodies(tool).items()}
    # LangChain's own methods call the bodies: bound to the stand-in they find those of this call.
    return StandIn(tool, [name for name in ("_run", "_arun") if name not in found], **found)


def _is_made_of_function(tool: Any) -> bool:
    """Return whether the tool's `_run` is LangChain's own, which calls a function of the tool."""
    # By the module that defines `_run`, since a subclass may have a `_run` of its own.
    return hasattr(tool, "func") and type(tool)._run.__module__.startswith("langchain_core.tools.")


def _body(function: Callable[..., Any]) -> Body:
    return Body(function, outside=MCP_SERVER if _connects(function) else "")


def _connects(function: Callable[..., Any]) -> bool:
    """Return whether a function is that of an MCP tool which opens a session for each call."""
    if getattr(function, "__module__", "") != "langchain_mcp_adapters.tools":
        return False
    return inspect.getclosurevars(function).nonlocals.get("session", function) is None


def _result(result: Any) -> Any:
    """Put back ``Command.PARENT``, which `ToolNode` compares by identity: it is a str."""
    command: Any = getattr(sys.modules.get("langgraph.types"), "Command", None)
    if command is None:
        return result
    if isinstance(result, command):
        parent = getattr(command, "PARENT", None)
        return dataclasses.replace(result, graph=parent) if result.graph == parent else result
    if type(result) in (list, tuple) and any(isinstance(one, command) for one in result):
        return type(result)(map(_result, result))
    return result


def _argument(value: Any, function: Callable[..., Any], may_run_inline: bool) -> Any:
    """Return the substitute of an argument that LangChain has injected; any other argument itself.

    The worker makes an inert run manager, since the callbacks are in the app. A `ToolRuntime` keeps
    state, context, config and id; it streams nothing and its store is absent.

    Raises:
        Unshippable: the body uses a store, or streams where it may run inline.
    """
    if is_a(value, "langchain_core.callbacks.base", "BaseCallbackManager"):
        manager: Callable[..., Any] = type(value)
        return Afresh(functools.partial(manager, handlers=[]))
    if is_a(value, "langchain_core.callbacks.manager", "BaseRunManager"):
        return Afresh(type(value).get_noop_manager)
    if is_a(value, "langgraph.store.base", "BaseStore"):
        raise Unshippable("the graph's store", type(value).__qualname__, graph.WHY)
    if is_a(value, "langgraph.prebuilt.tool_node", "ToolRuntime"):
        if value.store is not None and "store" in references(function).attributes:
            raise Unshippable("the graph's store", type(value.store).__qualname__, graph.WHY)
        if may_run_inline and graph.streams(function):
            raise Unshippable("the graph's stream", "a function", graph.WHY)
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
    """Return a RunnableConfig without callbacks and LangGraph's own keys."""
    portable = {key: value for key, value in config.items() if key not in _LIVE}
    own = portable.get("configurable")
    if own:
        portable["configurable"] = {
            key: value for key, value in own.items() if not str(key).startswith(_LANGGRAPH)
        }
    return portable
