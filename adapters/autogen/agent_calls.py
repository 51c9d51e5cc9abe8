"""The wrappers for calls of agents: tools of AssistantAgent, code of CodeExecutorAgent."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from agentcgroup.adapter import Call, active, arun, opener, restore
from agentcgroup.adapters.autogen.answer import ToolFailed, answer, answer_code, failure
from agentcgroup.adapters.autogen.body import keep_workbench_inline
from agentcgroup.adapters.autogen.cancellation import stop_with_token
from agentcgroup.adapters.autogen.identity import of_code, of_request
from agentcgroup.adapters.autogen.tool_calls import handing_off, printed_output

__all__ = ["execute_code_block", "execute_tool_call"]

logger = logging.getLogger("agentcgroup")

_open_request = opener("autogen", of_request)
_open_code = opener("autogen", of_code)


# -- tool calls of AssistantAgent -----------------------------------------------------------------


def execute_tool_call(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Wrap `AssistantAgent._execute_tool_call`: each tool call that is no handoff is a call."""
    signature = inspect.signature(original)

    @functools.wraps(original)
    async def execute_tool_call(*args: Any, **kwargs: Any) -> Any:
        services = active()
        if services is None:
            return await original(*args, **kwargs)
        arguments = signature.bind(*args, **kwargs).arguments if args else kwargs
        try:
            if _is_handoff(arguments):
                return await _run_handoff(original, arguments)
            call = _open_request(services, arguments["tool_call"], arguments)
            if call is None:
                return await original(**arguments)
            return await _run_tool_call(call, original, arguments)
        except (Exception, asyncio.CancelledError) as error:
            if "stream" not in arguments:
                raise  # before 0.6.2 it ends the agent's run
            return _failed(arguments, error)

    return execute_tool_call


async def _run_tool_call(
    call: Call, original: Callable[..., Awaitable[Any]], arguments: Mapping[str, Any]
) -> Any:
    async def body() -> Any:
        stop_with_token(call, arguments)
        await keep_workbench_inline(call, arguments)
        printed: list[str] = []
        token = printed_output.set(printed)
        try:
            result = await original(**arguments)
        finally:
            restore(printed_output, token)
        if result[1].is_error:
            raise ToolFailed(result, "\n".join(printed))
        return result

    try:
        return await arun(call, functools.partial(answer, arguments["tool_call"]), body)
    except ToolFailed as failed:
        return failed.result


def _is_handoff(arguments: Mapping[str, Any]) -> bool:
    name = arguments["tool_call"].name
    return any(tool.name == name for tool in arguments.get("handoff_tools") or ())


async def _run_handoff(
    original: Callable[..., Awaitable[Any]], arguments: Mapping[str, Any]
) -> Any:
    token = handing_off.set(True)
    try:
        return await original(**arguments)
    finally:
        restore(handing_off, token)


def _failed(arguments: Mapping[str, Any], error: BaseException) -> Any:
    """Return the exception as a failure: the agent would wait for ever for a call that raised.

    A cancellation of the agent's own task, and not of the token, is raised: nobody waits any more.
    """
    if isinstance(error, asyncio.CancelledError):
        if not _cancelled_by_token(arguments):
            raise error
        text = "The call was cancelled and its processes were ended."
    else:
        logger.error("agentcgroup: a tool call failed outside its tool", exc_info=error)
        text = str(error)
    return failure(arguments["tool_call"], text)


def _cancelled_by_token(arguments: Mapping[str, Any]) -> bool:
    """Return whether the token was cancelled, and not the task (Python 3.11 counts these)."""
    task: Any = asyncio.current_task()
    cancelling = getattr(task, "cancelling", None)
    return arguments["cancellation_token"].is_cancelled() and not (cancelling and cancelling())


# -- code of CodeExecutorAgent --------------------------------------------------------------------


def execute_code_block(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Wrap `CodeExecutorAgent.execute_code_block`: each block is a call."""
    signature = inspect.signature(original)

    @functools.wraps(original)
    async def execute_code_block(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        services = active()
        if services is None:
            return await original(self, *args, **kwargs)
        arguments = signature.bind(self, *args, **kwargs).arguments
        call = _open_code(services, self, arguments)
        if call is None:
            return await original(self, *args, **kwargs)

        async def body() -> Any:
            stop_with_token(call, arguments)
            return await original(self, *args, **kwargs)

        return await arun(call, answer_code, body)

    return execute_code_block
