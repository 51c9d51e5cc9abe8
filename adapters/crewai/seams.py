"""The wrapped methods: six that run a tool, and those for timeouts, cancellation and the cache.

`Tool.run` does not call `BaseTool.run`, and `CrewStructuredTool.invoke` calls a tool's `_run`, not
`run`: exactly one of the six runs per call. `_run` is never wrapped, since CrewAI infers schemas
from its signature.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from agentcgroup.adapter import (
    Call,
    Seam,
    around_async_tool,
    around_tool,
    bounded,
    cancels_calls,
    current_call,
    opener,
)
from agentcgroup.adapters.crewai.answer import LimitText, answer
from agentcgroup.adapters.crewai.body import stand_in
from agentcgroup.adapters.crewai.identity import identify

__all__ = ["SEAMS"]


def _is_same(outer: Call, tool: Any, _name: str, tool_call_id: str | None) -> bool:
    """Return whether `tool` was entered again in its own call, such as an `_arun` that calls `run`.

    `identify` returns an id once, so that one that comes again is of a new call.
    """
    return outer.key is tool and tool_call_id is None


_open = opener("crewai", identify, _is_same)
_run = around_tool(_open, answer, stand_in)
_arun = around_async_tool(_open, answer, stand_in)
#: Async crews, agents and flows run sync tools in threads.
_kickoff = cancels_calls()


def _asyncio_run(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `asyncio.run`, in which CrewAI runs an async tool: it ends at the call's timeout."""

    @functools.wraps(original)
    def run(main: Any, /, *args: Any, **kwargs: Any) -> Any:
        call = current_call()
        if call is None or call.framework != "crewai" or not asyncio.iscoroutine(main):
            return original(main, *args, **kwargs)
        bounded_main = bounded(call, main)
        try:
            return original(bounded_main, *args, **kwargs)
        finally:
            bounded_main.close()  # not started where a loop was running already

    return run


def _add(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `CacheHandler.add`: it skips our answers, as CrewAI itself skips a ToolFailure."""

    @functools.wraps(original)
    def add(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        if any(isinstance(value, LimitText) for value in (*args, *kwargs.values())):
            return None
        return original(self, *args, **kwargs)

    return add


_UNCONTAINED: Final = "calls that go through it are NOT contained"
_UNTIMED: Final = "async tools that only wait are not ended by their timeout"
_UNCANCELLED: Final = "tools in threads run on when it is cancelled"
_CACHED: Final = "the answer to a call that met a limit may come again from the cache"

SEAMS: Final[Mapping[str, Sequence[Seam]]] = {
    "crewai.tools.base_tool": (
        Seam("BaseTool.run", _run, _UNCONTAINED),
        Seam("BaseTool.arun", _arun, _UNCONTAINED),
        Seam("Tool.run", _run, _UNCONTAINED),
        Seam("Tool.arun", _arun, _UNCONTAINED),
    ),
    "crewai.tools.structured_tool": (
        Seam("CrewStructuredTool.invoke", _run, _UNCONTAINED),
        Seam("CrewStructuredTool.ainvoke", _arun, _UNCONTAINED),
    ),
    "asyncio": (Seam("run", _asyncio_run, _UNTIMED),),
    "crewai.agents.cache.cache_handler": (Seam("CacheHandler.add", _add, _CACHED),),
    "crewai.crew": (
        Seam("Crew.kickoff_async", _kickoff, _UNCANCELLED),
        Seam("Crew.akickoff", _kickoff, _UNCANCELLED),
    ),
    "crewai.agent.core": (Seam("Agent.kickoff_async", _kickoff, _UNCANCELLED),),
    "crewai.flow.flow": (Seam("Flow.kickoff_async", _kickoff, _UNCANCELLED),),
}
