"""Whose call it is, which the six methods are not told. Best effort: never touches a result.

CrewAI's executors call the hooks for "before a tool call" and "after a tool call" around each
call, in the context that runs it: they bring the agent. The model's id of the call is known only
to the executor of native calls, one frame above. Both wait in `_turn` for the call to open.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

from agentcgroup.calls.call import Identity
from agentcgroup.calls.services import active
from agentcgroup.frameworks import hooks

__all__ = ["MODULES", "hook", "identify"]

logger = logging.getLogger("agentcgroup")

_HOOKS: Final = "crewai.hooks.tool_hooks"
#: Who executes native calls; the second was removed in 1.15.29, the third is where the first was.
_EXECUTORS: Final[dict[str, str]] = {
    "crewai.agents.agent_executor": "AgentExecutor._execute_single_native_tool_call",
    "crewai.agents.crew_agent_executor": "CrewAgentExecutor._execute_single_native_tool_call",
    "crewai.experimental.agent_executor": "AgentExecutor._execute_single_native_tool_call",
    "crewai.agents.step_executor": "execute_single_native_tool_call",
}
MODULES: Final = (_HOOKS, *_EXECUTORS)


@dataclass(slots=True)
class _Turn:
    """One tool call on its way from an executor to the tool."""

    agent: str | None = None
    tool_call_id: str | None = None
    taken: bool = False


_turn: ContextVar[_Turn | None] = ContextVar("agentcgroup_crewai_turn", default=None)


def identify(tool: Any) -> Identity:
    """Read the identity from the tool and from what the executor has said.

    The agent is its role; without one (user code calls the tool) None, and the call belongs to the
    `agentcgroup.agent` block around it, if any. A tool_call_id is given once: what the tool's body
    calls has not got it.
    """
    try:
        turn = _turn.get()
        if turn is None:
            return None, str(tool.name), None
        call_id = None if turn.taken else turn.tool_call_id
        turn.taken = True
        return turn.agent, str(tool.name), call_id
    except Exception:
        logger.exception("agentcgroup: the identity of a tool call could not be read")
        return None, type(tool).__name__, None


def hook(name: str) -> None:
    """Register CrewAI's own hooks, or put the call id's wrapper around an executor."""
    if name == _HOOKS:
        module = sys.modules[name]
        if _before not in module.get_before_tool_call_hooks():
            module.register_before_tool_call_hook(_before)
        if _after not in module.get_after_tool_call_hooks():
            module.register_after_tool_call_hook(_after)
    else:
        hooks.wrap(name, _EXECUTORS[name], _numbered, "records have no tool_call_id")


def _before(context: Any) -> None:
    """Note the agent. Returns None, which changes nothing."""
    if active() is None:
        return
    turn = _turn.get()
    if turn is None or turn.taken:
        turn = _Turn()
        _turn.set(turn)
    try:
        turn.agent = _role(context.agent)
    except Exception:
        logger.exception("agentcgroup: the agent of a tool call could not be read")


def _after(_context: Any) -> None:
    """Forget: what user code calls next in this context is not this agent's."""
    _turn.set(None)


def _role(agent: Any) -> str | None:
    """Return the role; without the line break at its end that YAML's ``role: >`` leaves."""
    role = getattr(agent, "role", None)
    return role.strip() if isinstance(role, str) else None


def _numbered(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def execute(*args: Any, **kwargs: Any) -> Any:
        if active() is None:
            return original(*args, **kwargs)
        token = _turn.set(_Turn(tool_call_id=_call_id(args, kwargs)))
        try:
            return original(*args, **kwargs)
        finally:
            _turn.reset(token)

    return execute


def _call_id(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
    """Read the id from the model's tool call, the last argument, or from ``call_id=``."""
    try:
        call_id = kwargs.get("call_id")
        if call_id is None:
            from crewai.utilities.agent_utils import extract_tool_call_info

            info = extract_tool_call_info(
                kwargs["tool_call"] if "tool_call" in kwargs else args[-1]
            )
            call_id = None if info is None else info[0]
    except Exception:
        logger.exception("agentcgroup: the id of a tool call could not be read")
        return None
    return call_id if isinstance(call_id, str) else None
