"""The wrappers for the methods of a tool, `run_json` and `run_json_stream`.

An AssistantAgent runs them inside its own call, and everything else without one.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Final

from agentcgroup.adapter import (
    Call,
    Unshippable,
    WorkerDied,
    active,
    arun,
    astream,
    current_call,
    opener,
    partial_output,
)
from agentcgroup.adapters.autogen.answer import answer_value
from agentcgroup.adapters.autogen.body import keep_stream_inline, stand_in
from agentcgroup.adapters.autogen.cancellation import stop_with_token
from agentcgroup.adapters.autogen.identity import of_tool

__all__ = ["handing_off", "printed_output", "run_json", "run_json_stream"]

#: True while a handoff runs, which has the form of a tool and starts no process.
handing_off: Final[ContextVar[bool]] = ContextVar("agentcgroup_autogen_handoff", default=False)

#: Collects what the tool of the running call had printed when it raised. AutoGen keeps only the
#: text of an exception, which for a command that died contains nothing of its output.
printed_output: Final[ContextVar[list[str] | None]] = ContextVar(
    "agentcgroup_autogen_printed", default=None
)


def _is_same(outer: Call, _tool: Any, name: str, tool_call_id: str | None) -> bool:
    """Return whether `_execute_tool_call` has opened the call of this tool.

    The id decides, where there is one (0.6.2): a workbench may give the tool another name.
    """
    if outer.framework != "autogen" or outer.ended is not None:
        return False
    return name == outer.tool if tool_call_id is None else tool_call_id == outer.tool_call_id


_open = opener("autogen", of_tool, _is_same)


def run_json(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Wrap `BaseTool.run_json`: it is a call, except inside the call of the same tool."""
    signature = inspect.signature(original)

    @functools.wraps(original)
    async def run_json(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        services = active()
        if services is None or handing_off.get():
            return await original(self, *args, **kwargs)
        arguments = signature.bind(self, *args, **kwargs).arguments
        call = _open(services, self, arguments)
        if call is None:
            return await _run_inside(original, self, *args, **kwargs)

        async def body() -> Any:
            stop_with_token(call, arguments)
            return await original(stand_in(call, self), *args, **kwargs)

        return await arun(call, answer_value, body)

    return run_json


async def _run_inside(
    original: Callable[..., Awaitable[Any]], tool: Any, /, *args: Any, **kwargs: Any
) -> Any:
    """Run a tool in the call that is open for it, and note what the tool had printed.

    The text of an exception is dropped where a limit stopped the call or a worker could not run the
    tool: the answer for the model describes that.
    """
    call = current_call()
    if call is not None:
        tool = stand_in(call, tool)
    try:
        return await original(tool, *args, **kwargs)
    except Exception as error:
        output = partial_output(error)
        ours = isinstance(error, Unshippable | WorkerDied)
        if ours or (call is not None and call.stopped not in (None, "cancelled")):
            raise RuntimeError(output) from error
        printed = printed_output.get()
        if printed is not None and output:
            printed.append(output)
        raise


def run_json_stream(
    original: Callable[..., AsyncGenerator[Any, None]],
) -> Callable[..., AsyncGenerator[Any, None]]:
    """Wrap `BaseStreamTool.run_json_stream`, as `run_json`."""
    signature = inspect.signature(original)

    @functools.wraps(original)
    async def run_json_stream(self: Any, /, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        services = active()
        arguments = signature.bind(self, *args, **kwargs).arguments
        call = None if services is None else _open(services, self, arguments)

        def steps() -> AsyncGenerator[Any, None]:
            return _steps(original, self, *args, **kwargs)

        if call is None:
            stream = steps()
        else:
            stop_with_token(call, arguments)
            stream = astream(call, steps)
        async with contextlib.aclosing(stream):
            async for item in stream:
                yield item

    return run_json_stream


async def _steps(
    original: Callable[..., AsyncGenerator[Any, None]], tool: Any, /, *args: Any, **kwargs: Any
) -> AsyncGenerator[Any, None]:
    """Iterate a streaming tool, which no worker can run, in the call that is open for it."""
    call = current_call()
    if call is not None:
        keep_stream_inline(call, tool)
    async with contextlib.aclosing(original(tool, *args, **kwargs)) as stream:
        async for item in stream:
            yield item
