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
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Any, Final

from agentcgroup.adapters.autogen.answer import (
    ToolFailed,
    answer,
    answer_code,
    answer_value,
    failure,
)
from agentcgroup.adapters.autogen.body import bar_stream, bar_workbench, stand_in
from agentcgroup.adapters.autogen.identity import identify, of_code, of_request, of_tool
from agentcgroup.calls import cancellation, feedback, lifecycle
from agentcgroup.calls.call import Call
from agentcgroup.calls.services import Services, active
from agentcgroup.errors import Unshippable, WorkerDied
from agentcgroup.frameworks import hooks
from agentcgroup.scope import current, restore

__all__ = ["MODULES", "hook"]

logger = logging.getLogger("agentcgroup")

#: Set while a handoff is on its way: a tool only in form, which starts nothing.
_handing_off: ContextVar[bool] = ContextVar("agentcgroup_autogen_handoff", default=False)

#: Where the tool of the call notes what it had printed when it raised: AutoGen keeps no more of an
#: exception than its text, which for a command that died says nothing of use.
_printed: ContextVar[list[str] | None] = ContextVar("agentcgroup_autogen_printed", default=None)


def hook(name: str) -> None:
    """Hook the seams of one imported module; a missing one is a loud warning."""
    for path, wrapper, lost in _SEAMS[name]:
        if path == _STREAM and not hasattr(sys.modules[name], _STREAM.partition(".")[0]):
            continue  # AutoGen before 0.6.2 has no streaming tools
        hooks.wrap(name, path, wrapper, lost)


# -- tool calls of AssistantAgent -----------------------------------------------------------------


def _execute_tool_call(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    signature = inspect.signature(original)

    @functools.wraps(original)
    async def execute_tool_call(*args: Any, **kwargs: Any) -> Any:
        session = active()
        if session is None:
            return await original(*args, **kwargs)
        arguments = signature.bind(*args, **kwargs).arguments if args else kwargs
        try:
            if _is_handoff(arguments):
                return await _run_handoff(original, arguments)
            return await _run_tool_call(session, original, arguments)
        except (Exception, asyncio.CancelledError) as error:
            if "stream" not in arguments:
                raise  # before 0.6.2 it ends the agent's run
            return _failed(arguments, error)

    return execute_tool_call


async def _run_tool_call(
    session: Services, original: Callable[..., Awaitable[Any]], arguments: Mapping[str, Any]
) -> Any:
    tool_call = arguments["tool_call"]
    call = lifecycle.open_call(session, "autogen", *identify(of_request, tool_call, arguments))

    async def body() -> Any:
        _heed(arguments.get("cancellation_token"), call)
        await bar_workbench(call, arguments)
        printed: list[str] = []
        token = _printed.set(printed)
        try:
            result = await original(**arguments)
        finally:
            restore(_printed, token)
        if result[1].is_error:
            raise ToolFailed(result, "\n".join(printed))
        return result

    try:
        return await lifecycle.arun(call, functools.partial(answer, tool_call), body)
    except ToolFailed as failed:
        return failed.result


def _is_handoff(arguments: Mapping[str, Any]) -> bool:
    name = arguments["tool_call"].name
    return any(tool.name == name for tool in arguments.get("handoff_tools") or ())


async def _run_handoff(
    original: Callable[..., Awaitable[Any]], arguments: Mapping[str, Any]
) -> Any:
    token = _handing_off.set(True)
    try:
        return await original(**arguments)
    finally:
        restore(_handing_off, token)


def _failed(arguments: Mapping[str, Any], error: BaseException) -> Any:
    """Return what raised as a failure, since raised it hangs the agent, which waits for its end.

    Nobody waits any more where the agent's own task was cancelled, and not the token.
    """
    if isinstance(error, asyncio.CancelledError):
        if not _cancelled_by_token(arguments):
            raise error
        told = "The call was cancelled and its processes were ended."
    else:
        logger.error("agentcgroup: a tool call failed outside its tool", exc_info=error)
        told = str(error)
    return failure(arguments["tool_call"], told)


def _cancelled_by_token(arguments: Mapping[str, Any]) -> bool:
    """Whether the token cancelled the tool, and nobody the task we run in (Python 3.11 tells)."""
    task: Any = asyncio.current_task()
    cancelling = getattr(task, "cancelling", None)
    return arguments["cancellation_token"].is_cancelled() and not (cancelling and cancelling())


# -- tools that anything else runs ----------------------------------------------------------------


def _run_json(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    signature = inspect.signature(original)

    @functools.wraps(original)
    async def run_json(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        session = active()
        if session is None or _handing_off.get():
            return await original(self, *args, **kwargs)
        arguments = signature.bind(self, *args, **kwargs).arguments
        call = _open(session, self, arguments)
        if call is None:
            return await _inside(original, self, *args, **kwargs)

        async def body() -> Any:
            _heed(arguments.get("cancellation_token"), call)
            return await original(stand_in(call, self), *args, **kwargs)

        return await lifecycle.arun(call, answer_value, body)

    return run_json


async def _inside(
    original: Callable[..., Awaitable[Any]], tool: Any, /, *args: Any, **kwargs: Any
) -> Any:
    """Run a tool in the call that is open for it already, and note what it had printed.

    When a limit has stopped that, or a worker could not run it, what the tool says about it is not
    worth telling, as the answer says it.
    """
    call = current.get()
    if isinstance(call, Call):
        tool = stand_in(call, tool)
    try:
        return await original(tool, *args, **kwargs)
    except Exception as error:
        output = feedback.partial_output(error)
        ours = isinstance(error, Unshippable | WorkerDied)
        if ours or (isinstance(call, Call) and call.stopped not in (None, "cancelled")):
            raise RuntimeError(output) from error
        printed = _printed.get()
        if printed is not None and output:
            printed.append(output)
        raise


def _run_json_stream(
    original: Callable[..., AsyncGenerator[Any, None]],
) -> Callable[..., AsyncGenerator[Any, None]]:
    signature = inspect.signature(original)

    @functools.wraps(original)
    async def run_json_stream(self: Any, /, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        session = active()
        arguments = signature.bind(self, *args, **kwargs).arguments
        call = None if session is None else _open(session, self, arguments)

        def steps() -> AsyncGenerator[Any, None]:
            return _steps(original, self, *args, **kwargs)

        if call is None:
            stream = steps()
        else:
            _heed(arguments.get("cancellation_token"), call)
            stream = lifecycle.astream(call, steps)
        async with contextlib.aclosing(stream):
            async for item in stream:
                yield item

    return run_json_stream


async def _steps(
    original: Callable[..., AsyncGenerator[Any, None]], tool: Any, /, *args: Any, **kwargs: Any
) -> AsyncGenerator[Any, None]:
    """Iterate a streaming tool, which no worker can run, in the call that is open for it."""
    call = current.get()
    if isinstance(call, Call):
        bar_stream(call, tool)
    async with contextlib.aclosing(original(tool, *args, **kwargs)) as stream:
        async for item in stream:
            yield item


def _open(session: Services, tool: Any, arguments: Mapping[str, Any]) -> Call | None:
    """Open the call; None inside `_execute_tool_call` of the same.

    The id tells, where there is one (0.6.2): a workbench may know the tool by another name.
    """
    agent, name, tool_call_id = identify(of_tool, tool, arguments)
    outer = current.get()
    if isinstance(outer, Call) and outer.framework == "autogen" and outer.ended is None:
        if tool_call_id is None and name == outer.tool:
            return None
        if tool_call_id is not None and tool_call_id == outer.tool_call_id:
            return None
    return lifecycle.open_call(session, "autogen", agent, name, tool_call_id)


# -- code of CodeExecutorAgent --------------------------------------------------------------------


def _execute_code_block(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    signature = inspect.signature(original)

    @functools.wraps(original)
    async def execute_code_block(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        session = active()
        if session is None:
            return await original(self, *args, **kwargs)
        arguments = signature.bind(self, *args, **kwargs).arguments
        call = lifecycle.open_call(session, "autogen", *identify(of_code, self, arguments))

        async def body() -> Any:
            _heed(arguments.get("cancellation_token"), call)
            return await original(self, *args, **kwargs)

        return await lifecycle.arun(call, answer_code, body)

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
            stream = cancellation.cancelling_stream(lambda: original(*args, **kwargs))
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
            restore(current, token)

    return start


_STREAM: Final = "BaseStreamTool.run_json_stream"

#: What to hook in each module, with what is lost without it.
_SEAMS: Final[dict[str, tuple[tuple[str, hooks.Wrapper, str], ...]]] = {
    "autogen_agentchat.agents": (
        (
            "AssistantAgent._execute_tool_call",
            _execute_tool_call,
            "MCP tools are NOT contained, and other tools of agents belong to no agent",
        ),
        (
            "AssistantAgent.on_messages_stream",
            _on_messages_stream,
            "a tool's processes run on when the task of its agent is cancelled",
        ),
        (
            "CodeExecutorAgent.execute_code_block",
            _execute_code_block,
            "code that CodeExecutorAgent runs is NOT contained",
        ),
    ),
    "autogen_core.tools": (
        (
            "BaseTool.run_json",
            _run_json,
            "tools that other agents than AssistantAgent run are NOT contained",
        ),
        (
            _STREAM,
            _run_json_stream,
            "streaming tools that other agents than AssistantAgent run are NOT contained",
        ),
    ),
    "autogen_ext.tools.mcp": (
        (
            "McpWorkbench.start",
            _start,
            "an MCP server that a call happens to start ends with that call",
        ),
    ),
}
MODULES: Final = tuple(_SEAMS)
