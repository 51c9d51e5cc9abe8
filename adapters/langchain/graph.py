"""What a LangChain tool needs of the graph that runs it, which only the app's process has."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Final

from agentcgroup.adapter import Unshippable, is_a, references

__all__ = ["WHY", "explain", "needed", "streams"]

#: Functions that find the graph by the context of their caller.
_OF_GRAPH: Final = frozenset(
    {
        "langgraph.config.get_config",
        "langgraph.config.get_store",
        "langgraph.config.get_stream_writer",
        "langgraph.runtime.get_runtime",
        "langgraph.types.interrupt",
    }
)
#: Functions that find the callbacks of the call in the same way, in a graph or outside.
_OF_CALLBACKS: Final = frozenset(
    {
        "langchain_core.callbacks.manager.adispatch_custom_event",
        "langchain_core.callbacks.manager.dispatch_custom_event",
    }
)
#: The class of compiled graphs and agents, by the modules that had it.
_GRAPHS: Final = frozenset({"langgraph.pregel.Pregel", "langgraph.pregel.main.Pregel"})
#: Attributes of a `ToolRuntime` through which a body streams to those who read the graph's stream.
_STREAMS: Final = frozenset({"emit_output_delta", "stream_writer"})
#: Prefix of the keys that LangGraph keeps in a config.
_LANGGRAPH: Final = "__pregel_"
#: The key in a config of the path to the node that runs the tool.
_NAMESPACE: Final = "checkpoint_ns"
#: Part of the text of the error that those functions raise where they find no graph.
_NONE: Final = "outside of a runnable context"

WHY: Final = "it works only in the process of the graph"


def needed(
    tool: Any,
    function: Callable[..., Any],
    config: Mapping[str, Any] | None,
    *,
    may_run_inline: bool,
) -> Unshippable | None:
    """Return what a body would miss in a worker; None where it misses nothing that can be seen.

    Args:
        tool: the tool.
        function: its body.
        config: the config of its call.
        may_run_inline: the policy allows that. Then a body that runs an agent misses something,
            too: in a worker the calls of that agent have no cgroups and records of their own.
    """
    found = references(function)
    calls = found.functions & _OF_CALLBACKS
    if _is_in_graph(config):
        calls |= found.functions & _OF_GRAPH
    if calls:
        first = min(calls)
        return Unshippable(f"{first.rpartition('.')[2]}()", first, WHY)
    if may_run_inline:
        holds = any(is_a(value, "langgraph.pregel", "Pregel") for value in vars(tool).values())
        if holds or not _GRAPHS.isdisjoint(found.kinds):
            why = "it runs an agent, which lives in the app"
            return Unshippable(f"tool {tool.name!r}", f"{type(tool).__qualname__}", why)
    return None


def streams(function: Callable[..., Any]) -> bool:
    """Return whether a body writes to the graph's stream by its `ToolRuntime`."""
    return not _STREAMS.isdisjoint(references(function).attributes)


def explain(error: Exception, config: Mapping[str, Any] | None) -> None:
    """Make a worker's exception what it would be in the app, or say that isolation is the reason.

    A call that needs the graph is not seen before the run where a library makes it.

    Args:
        error: the exception.
        config: the config of the call.
    """
    if isinstance(error, RuntimeError) and _NONE in str(error):
        error.args = (
            f"{error}. The tool ran in a worker process, where the graph is not to be had. Fix: "
            'run the tool with isolation = "inline".',
        )
    elif is_a(error, "langgraph.errors", "ParentCommand") and error.args:
        command = error.args[0]
        if getattr(command, "graph", None) == "":  # of a graph that had no parent in the worker
            parent = ((config or {}).get("configurable") or {}).get(_NAMESPACE, "")
            error.args = (dataclasses.replace(command, graph=parent), *error.args[1:])


def _is_in_graph(config: Mapping[str, Any] | None) -> bool:
    keys = ((config or {}).get("configurable") or {}).keys()
    return any(str(key).startswith(_LANGGRAPH) for key in keys)
