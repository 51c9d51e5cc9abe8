"""Where a call is taken over: `BaseTool.run` and `BaseTool.arun`, and `ainvoke` for cancellation.

`_run` is never touched, since schemas are inferred from it. No class of langchain-core, langchain,
langgraph or deepagents overrides `run` or `arun`; a subclass that does and calls `super()` is still
one call.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, Final

from agentcgroup.adapters.langchain.answer import answer
from agentcgroup.adapters.langchain.body import stand_in
from agentcgroup.adapters.langchain.identity import identify
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
        call = None if session is None else _open(session, self, kwargs)
        if call is None:
            return original(self, *args, **kwargs)

        def body() -> Any:
            return original(stand_in(call, self, kwargs), *args, **kwargs)

        return lifecycle.run(call, answer, body)

    return run


def _arun(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(original)
    async def arun(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        session = active()
        call = None if session is None else _open(session, self, kwargs)
        if call is None:
            return await original(self, *args, **kwargs)

        async def body() -> Any:
            return await original(stand_in(call, self, kwargs), *args, **kwargs)

        return await lifecycle.arun(call, answer, body)

    return arun


def _ainvoke(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """A tool without a coroutine runs in a thread below this: there its cancellation is lost."""

    @functools.wraps(original)
    async def ainvoke(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        if active() is None or getattr(self, "coroutine", None) is not None:
            return await original(self, *args, **kwargs)
        return await cancellation.cancelling(lambda: original(self, *args, **kwargs))

    return ainvoke


_UNCONTAINED: Final = "calls that go through it are NOT contained"
_UNCANCELLED: Final = "a sync tool in a thread runs on when its agent is cancelled"

#: What to hook in each module, with what is lost without it.
_SEAMS: Final[dict[str, tuple[tuple[str, hooks.Wrapper, str], ...]]] = {
    "langchain_core.tools.base": (
        ("BaseTool.run", _run, _UNCONTAINED),
        ("BaseTool.arun", _arun, _UNCONTAINED),
    ),
    "langchain_core.tools.structured": (("StructuredTool.ainvoke", _ainvoke, _UNCANCELLED),),
    "langchain_core.tools.simple": (("Tool.ainvoke", _ainvoke, _UNCANCELLED),),
}
MODULES: Final = tuple(_SEAMS)


def _open(session: Services, tool: Any, arguments: dict[str, Any]) -> Call | None:
    """Open the call; None for a re-entry into the running one (`_arun` that calls `run`)."""
    agent, name, tool_call_id = identify(tool, arguments)
    outer = current.get()
    if isinstance(outer, Call) and outer.key is tool and tool_call_id in (None, outer.tool_call_id):
        return None
    return lifecycle.open_call(session, "langchain", agent, name, tool_call_id, key=tool)
