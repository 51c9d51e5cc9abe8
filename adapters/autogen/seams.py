"""Where a call is taken over, and where AutoGen's ways to give a call up are made to end it.

`AssistantAgent._execute_tool_call` is the one place that knows who calls what, whatever workbench
the tool is in. Tools also run without it, so `BaseTool.run_json` and `run_json_stream` are hooked
and pass through when they are that same call. Code blocks are no tools: `execute_code_block`.

Two ways to give up reach no tool in AutoGen, and two more hooks cure that: a cancelled token kills
the processes at once (an executor waits for a process however long that ignores SIGTERM), and an
agent's task that is cancelled ends its calls, which since 0.6.2 run in tasks nobody cancels.

The classes are taken from the public packages, since modules below them have moved before.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextvars import ContextVar
from types import ModuleType
from typing import Any, Final, NamedTuple

from agentcgroup import execution, feedback
from agentcgroup.adapters.autogen.answer import (
    ToolFailed,
    answer,
    answer_code,
    answer_value,
    failure,
)
from agentcgroup.adapters.autogen.identity import identify, of_code, of_request, of_tool
from agentcgroup.calls import Call
from agentcgroup.scope import current
from agentcgroup.session import Session, active

__all__ = ["MODULES", "hook"]

logger = logging.getLogger("agentcgroup")

#: Set while a handoff is on its way: a tool only in form, which starts nothing.
_handing_off: ContextVar[bool] = ContextVar("agentcgroup_autogen_handoff", default=False)


def hook(module: ModuleType) -> None:
    """Hook the seams of one imported module; a missing one is a loud warning."""
    for seam in _SEAMS[module.__name__]:
        owner = getattr(module, seam.owner, None)
        if owner is None and seam.younger:
            continue
        there = vars(owner).get(seam.method) if owner is not None else None
        if there is None or isinstance(there, staticmethod) is not seam.static:
            logger.warning(
                "agentcgroup: %s.%s.%s is missing in this version of AutoGen: %s",
                module.__name__,
                seam.owner,
                seam.method,
                seam.lost,
            )
            continue
        ours = seam.wrap(getattr(owner, seam.method))
        setattr(owner, seam.method, staticmethod(ours) if seam.static else ours)


# -- tool calls of AssistantAgent -----------------------------------------------------------------


def _execute_tool_call(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    signature = inspect.signature(original)

    @functools.wraps(original)
    async def execute_tool_call(*args: Any, **kwargs: Any) -> Any:
        session = active()
        if session is None:
            return await original(*args, **kwargs)
        arguments = signature.bind(*args, **kwargs).arguments if args else kwargs
        if _is_handoff(arguments):
            token = _handing_off.set(True)
            try:
                return await original(*args, **kwargs)
            finally:
                _handing_off.reset(token)
        if "stream" not in arguments:
            return await _run_tool_call(session, original, arguments)
        try:
            return await _run_tool_call(session, original, arguments)
        except Exception as error:
            # Whatever raises from here on hangs the agent: its own error handling ends below us.
            logger.exception("agentcgroup: a tool call failed outside its tool")
            return failure(arguments["tool_call"], str(error))
        except asyncio.CancelledError:
            if not _cancelled_by_token(arguments):
                raise
            return failure(
                arguments["tool_call"], "The call was cancelled and its processes were ended."
            )

    return execute_tool_call


async def _run_tool_call(
    session: Session, original: Callable[..., Awaitable[Any]], arguments: Mapping[str, Any]
) -> Any:
    tool_call = arguments["tool_call"]
    call = session.start("autogen", *identify(of_request, tool_call, arguments))

    async def body() -> Any:
        _heed(arguments.get("cancellation_token"), call)
        result = await original(**arguments)
        if result[1].is_error:
            raise ToolFailed(result)
        return result

    try:
        return await execution.arun(call, functools.partial(answer, tool_call), body)
    except ToolFailed as failed:
        return failed.result


def _is_handoff(arguments: Mapping[str, Any]) -> bool:
    name = arguments["tool_call"].name
    return any(tool.name == name for tool in arguments.get("handoff_tools") or ())


def _cancelled_by_token(arguments: Mapping[str, Any]) -> bool:
    """Whether the token cancelled the tool, and nobody the task we run in (Python 3.11 tells)."""
    task: Any = asyncio.current_task()
    cancelling = getattr(task, "cancelling", None)
    return arguments["cancellation_token"].is_cancelled() and not (cancelling and cancelling())


# -- tools that anything else runs ----------------------------------------------------------------


def _run_json(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    signature = inspect.signature(original)

    @functools.wraps(original)
    async def run_json(self: Any, *args: Any, **kwargs: Any) -> Any:
        session = active()
        if session is None or _handing_off.get():
            return await original(self, *args, **kwargs)
        arguments = signature.bind(self, *args, **kwargs).arguments
        call = _open(session, self, arguments)
        if call is None:
            return await _inside(original, self, *args, **kwargs)

        async def body() -> Any:
            _heed(arguments.get("cancellation_token"), call)
            return await original(self, *args, **kwargs)

        return await execution.arun(call, answer_value, body)

    return run_json


async def _inside(original: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
    """Run a tool in the call that is open for it already.

    When that was stopped, what the tool says about it is not worth telling: the answer does. What
    the tool had printed is.
    """
    try:
        return await original(*args, **kwargs)
    except Exception as error:
        call = current.get()
        if isinstance(call, Call) and call.stopped is not None:
            raise RuntimeError(feedback.partial_output(error)) from error
        raise


def _run_json_stream(
    original: Callable[..., AsyncGenerator[Any, None]],
) -> Callable[..., AsyncGenerator[Any, None]]:
    signature = inspect.signature(original)

    @functools.wraps(original)
    async def run_json_stream(self: Any, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        session = active()
        arguments = signature.bind(self, *args, **kwargs).arguments
        call = None if session is None else _open(session, self, arguments)
        if call is None:
            stream = original(self, *args, **kwargs)
        else:
            _heed(arguments.get("cancellation_token"), call)
            stream = execution.astream(call, original, self, *args, **kwargs)
        async with contextlib.aclosing(stream):
            async for item in stream:
                yield item

    return run_json_stream


def _open(session: Session, tool: Any, arguments: Mapping[str, Any]) -> Call | None:
    """Open the call; None inside `_execute_tool_call` of the same.

    The id tells, where there is one (0.6.2): a workbench may know the tool by another name.
    """
    identity = identify(of_tool, tool, arguments)
    outer = current.get()
    if isinstance(outer, Call) and outer.framework == "autogen":
        if identity.tool_call_id is None and identity.tool == outer.tool:
            return None
        if identity.tool_call_id is not None and identity.tool_call_id == outer.tool_call_id:
            return None
    return session.start("autogen", *identity)


# -- code of CodeExecutorAgent --------------------------------------------------------------------


def _execute_code_block(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    signature = inspect.signature(original)

    @functools.wraps(original)
    async def execute_code_block(self: Any, *args: Any, **kwargs: Any) -> Any:
        session = active()
        if session is None:
            return await original(self, *args, **kwargs)
        arguments = signature.bind(self, *args, **kwargs).arguments
        call = session.start("autogen", *identify(of_code, self, arguments))

        async def body() -> Any:
            _heed(arguments.get("cancellation_token"), call)
            return await original(self, *args, **kwargs)

        return await execution.arun(call, answer_code, body)

    return execute_code_block


# -- giving up, and what outlives a call ----------------------------------------------------------


def _heed(token: Any, call: Call) -> None:
    """Have the token, when it is cancelled, end the processes of the call."""
    if token is not None:
        token.add_callback(functools.partial(_stop, call))


def _stop(call: Call) -> None:
    try:
        call.stop("cancelled")
    except Exception:
        logger.exception("agentcgroup: processes of a cancelled call could not be ended")


def _on_messages_stream(
    original: Callable[..., AsyncGenerator[Any, None]],
) -> Callable[..., AsyncGenerator[Any, None]]:
    @functools.wraps(original)
    async def on_messages_stream(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        if active() is None:
            stream = original(*args, **kwargs)
        else:
            stream = execution.cancelling_stream(original, *args, **kwargs)
        async with contextlib.aclosing(stream):
            async for event in stream:
                yield event

    return on_messages_stream


def _start(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Start an MCP server outside the call that happens to need it first: others will, too."""

    @functools.wraps(original)
    async def start(*args: Any, **kwargs: Any) -> Any:
        token = current.set(None)
        try:
            return await original(*args, **kwargs)
        finally:
            current.reset(token)

    return start


class _Seam(NamedTuple):
    """A method to hook; `lost` says what is not contained without, `younger` than 0.5.7."""

    owner: str
    method: str
    wrap: Callable[[Callable[..., Any]], Callable[..., Any]]
    lost: str
    static: bool = False
    younger: bool = False


_SEAMS: Final[dict[str, tuple[_Seam, ...]]] = {
    "autogen_agentchat.agents": (
        _Seam(
            "AssistantAgent",
            "_execute_tool_call",
            _execute_tool_call,
            "MCP tools are NOT contained, other tools of agents only under no agent's name",
            static=True,
        ),
        _Seam(
            "AssistantAgent",
            "on_messages_stream",
            _on_messages_stream,
            "a tool's processes do NOT end when the task of its agent is cancelled",
        ),
        _Seam(
            "CodeExecutorAgent",
            "execute_code_block",
            _execute_code_block,
            "code that CodeExecutorAgent runs is NOT contained",
        ),
    ),
    "autogen_core.tools": (
        _Seam(
            "BaseTool",
            "run_json",
            _run_json,
            "tools that other agents than AssistantAgent run are NOT contained",
        ),
        _Seam(
            "BaseStreamTool",
            "run_json_stream",
            _run_json_stream,
            "streaming tools that other agents than AssistantAgent run are NOT contained",
            younger=True,
        ),
    ),
    "autogen_ext.tools.mcp": (
        _Seam(
            "McpWorkbench",
            "start",
            _start,
            "an MCP server that a call happens to start ends with that call",
        ),
    ),
}
MODULES: Final = tuple(_SEAMS)
