"""Where a call is taken over, and where its time, a cancellation and the cache are.

`Tool.run` does not call `BaseTool.run`; `CrewStructuredTool.invoke` calls a tool's `_run`, not
`run`: so exactly one of the six fires per call. `_run` is never touched, since schemas are inferred
from its signature.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any, Final

from agentcgroup.adapters.crewai.answer import Told, answer
from agentcgroup.adapters.crewai.body import stand_in
from agentcgroup.adapters.crewai.identity import identify
from agentcgroup.calls import cancellation, lifecycle
from agentcgroup.calls.call import Call
from agentcgroup.calls.services import Services, active
from agentcgroup.frameworks import hooks
from agentcgroup.scope import current

__all__ = ["MODULES", "hook"]


def hook(name: str) -> None:
    """Hook the seams of one imported module; a missing one is a loud warning."""
    for path, wrapper, lost in _SEAMS[name]:
        hooks.wrap(name, path, wrapper, lost)


def _run(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def run(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        session = active()
        call = None if session is None else _open(session, self)
        if call is None:
            return original(self, *args, **kwargs)

        def body() -> Any:
            return original(stand_in(call, self), *args, **kwargs)

        return lifecycle.run(call, answer, body)

    return run


def _arun(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(original)
    async def arun(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        session = active()
        call = None if session is None else _open(session, self)
        if call is None:
            return await original(self, *args, **kwargs)

        async def body() -> Any:
            return await original(stand_in(call, self), *args, **kwargs)

        return await lifecycle.arun(call, answer, body)

    return arun


def _asyncio_run(original: Callable[..., Any]) -> Callable[..., Any]:
    """CrewAI runs an async tool in a loop of its own, which must end with the call's time."""

    @functools.wraps(original)
    def run(main: Any, /, *args: Any, **kwargs: Any) -> Any:
        call = current.get()
        if (
            not isinstance(call, Call)
            or call.framework != "crewai"
            or not asyncio.iscoroutine(main)
        ):
            return original(main, *args, **kwargs)
        bounded = cancellation.bounded(call, main)
        try:
            return original(bounded, *args, **kwargs)
        finally:
            bounded.close()  # it has not begun where a loop was running already

    return run


def _kickoff(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Async crews, agents and flows run sync tools in threads, where a cancellation is lost."""

    @functools.wraps(original)
    async def kickoff(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        if active() is None:
            return await original(self, *args, **kwargs)
        return await cancellation.cancelling(lambda: original(self, *args, **kwargs))

    return kickoff


def _add(original: Callable[..., Any]) -> Callable[..., Any]:
    """Keep answers of ours out of the cache; CrewAI itself does it with a ToolFailure."""

    @functools.wraps(original)
    def add(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        if any(isinstance(value, Told) for value in (*args, *kwargs.values())):
            return None
        return original(self, *args, **kwargs)

    return add


_UNCONTAINED: Final = "calls that go through it are NOT contained"
_UNTIMED: Final = "async tools that only wait are not ended by their timeout"
_UNCANCELLED: Final = "tools in threads run on when it is cancelled"
_CACHED: Final = "the answer to a call that met a limit may come again from the cache"

#: What to hook in each module, with what is lost without it.
_SEAMS: Final[dict[str, tuple[tuple[str, hooks.Wrapper, str], ...]]] = {
    "crewai.tools.base_tool": (
        ("BaseTool.run", _run, _UNCONTAINED),
        ("BaseTool.arun", _arun, _UNCONTAINED),
        ("Tool.run", _run, _UNCONTAINED),
        ("Tool.arun", _arun, _UNCONTAINED),
    ),
    "crewai.tools.structured_tool": (
        ("CrewStructuredTool.invoke", _run, _UNCONTAINED),
        ("CrewStructuredTool.ainvoke", _arun, _UNCONTAINED),
    ),
    "asyncio": (("run", _asyncio_run, _UNTIMED),),
    "crewai.agents.cache.cache_handler": (("CacheHandler.add", _add, _CACHED),),
    "crewai.crew": (
        ("Crew.kickoff_async", _kickoff, _UNCANCELLED),
        ("Crew.akickoff", _kickoff, _UNCANCELLED),
    ),
    "crewai.agent.core": (("Agent.kickoff_async", _kickoff, _UNCANCELLED),),
    "crewai.flow.flow": (("Flow.kickoff_async", _kickoff, _UNCANCELLED),),
}
MODULES: Final = tuple(name for name in _SEAMS if name != "asyncio")


def _open(session: Services, tool: Any) -> Call | None:
    """Open the call; None for a re-entry into the running one (`_arun` that calls `run`)."""
    agent, name, tool_call_id = identify(tool)
    outer = current.get()
    if isinstance(outer, Call) and outer.key is tool and tool_call_id is None:
        return None
    return lifecycle.open_call(session, "crewai", agent, name, tool_call_id, key=tool)
