"""The answer to the model for a call that met a limit.

It is returned and never raised: CrewAI runs a ReAct tool that raises up to six times (two calls per
attempt, three attempts), each time into the same limit.
"""

from __future__ import annotations

from typing import Any, Final

from agentcgroup.adapter import CallRecord, attach, partial_output

__all__ = ["LimitText", "answer"]

#: Exceptions that must reach CrewAI although a limit was met: the user asked for the stop.
_CONTROL_FLOW: Final = frozenset(
    {"HookAborted", "ToolExecutionFailedError", "ToolUsageLimitExceededError"}
)


class LimitText(str):
    """An answer that describes one execution of a tool; the seam of the cache skips it."""

    __slots__ = ()


def answer(record: CallRecord, result: Any, error: Exception | None) -> Any:
    """Return the answer in the form that the callers of a tool expect.

    Where a limit ended the call that is a `ToolFailure` (crewai 1.15.9 and newer), which CrewAI
    records in ``TaskOutput.tool_failures`` and never caches; in older versions a str. A result that
    hides a kill keeps its text, followed by the sentence.
    """
    if error is not None:
        if any(base.__name__ in _CONTROL_FLOW for base in type(error).__mro__):
            raise error
        return _failure(attach(partial_output(error), record), record)
    if record.outcome != "ok":
        return _failure(attach(_text(result), record), record)
    return LimitText(attach(result, record)) if isinstance(result, str) else result


def _failure(text: str, record: CallRecord) -> Any:
    try:
        from crewai.tools.tool_failure import ToolFailure
    except ImportError:
        return LimitText(text)
    return ToolFailure(message=text, code=record.reason, retryable=False)


def _text(result: Any) -> str:
    """Return a result as the model would have read it; a ToolFailure has a text of its own."""
    if result is None:
        return ""
    message = getattr(result, "as_agent_message", None)
    return str(message() if callable(message) else result)
