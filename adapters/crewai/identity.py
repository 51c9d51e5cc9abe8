"""Reads agent, tool and tool_call_id of a call.

The six methods are not given the agent or the id. CrewAI's executors call the hooks "before a tool
call" and "after a tool call" around each call, in the context that runs it, and give them the
agent. Only the executor of native calls, one frame above, has the model's id of the call. `_turn`
holds both until the call is opened. A fault here is logged and changes no result.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

from agentcgroup.adapter import Identity, Seam, active, hook, when_imported

__all__ = ["identify", "install"]

logger = logging.getLogger("agentcgroup")

_HOOKS: Final = "crewai.hooks.tool_hooks"
#: The executors of native calls. The second was removed in 1.15.29, the third is where the first
#: was before.
_EXECUTORS: Final[dict[str, str]] = {
    "crewai.agents.agent_executor": "AgentExecutor._execute_single_native_tool_call",
    "crewai.agents.crew_agent_executor": "CrewAgentExecutor._execute_single_native_tool_call",
    "crewai.experimental.agent_executor": "AgentExecutor._execute_single_native_tool_call",
    "crewai.agents.step_executor": "execute_single_native_tool_call",
}


@dataclass(slots=True)
class _Turn:
    """One tool call on its way from an executor to the tool."""

    agent: str | None = None
    tool_call_id: str | None = None
    taken: bool = False


_turn: ContextVar[_Turn | None] = ContextVar("agentcgroup_crewai_turn", default=None)


def identify(tool: Any, _arguments: Mapping[str, Any]) -> Identity:
    """Read the identity from the tool and from the notes of the executor's hooks.

    The agent's name is its role. Without a role (user code calls the tool) the agent is None, and
    an `agentcgroup.agent` block around the call names it, if there is one. A tool_call_id is
    returned once: calls that the tool's body makes have none.
    """
    turn = _turn.get()
    if turn is None:
        return None, str(tool.name), None
    call_id = None if turn.taken else turn.tool_call_id
    turn.taken = True
    return turn.agent, str(tool.name), call_id


def install() -> None:
    """Hook CrewAI's executors once they are imported, or now if they are."""
    when_imported((_HOOKS, *_EXECUTORS), _hook, "calls of CrewAI have no agent or no tool_call_id")


def _hook(module: str) -> None:
    """Register hooks with CrewAI's own mechanism, or wrap an executor."""
    if module != _HOOKS:
        hook(module, [Seam(_EXECUTORS[module], _noting_id, "records have no tool_call_id")])
        return
    crewai_hooks = sys.modules[module]
    if _before not in crewai_hooks.get_before_tool_call_hooks():
        crewai_hooks.register_before_tool_call_hook(_before)
    if _after not in crewai_hooks.get_after_tool_call_hooks():
        crewai_hooks.register_after_tool_call_hook(_after)


def _before(context: Any) -> None:
    """Note the agent. CrewAI goes on with the call, since None is returned."""
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
    """Drop the note: a tool that user code calls next in this context is not this agent's."""
    _turn.set(None)


def _role(agent: Any) -> str | None:
    """Return the role, without the line break that YAML's ``role: >`` leaves at its end."""
    role = getattr(agent, "role", None)
    return role.strip() if isinstance(role, str) else None


def _noting_id(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap an executor of native calls: it notes the model's id of the call."""

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
