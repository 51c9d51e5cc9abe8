"""What the model is given for a call that met a limit.

Returned, not raised: a ReAct tool that raises is run up to six times (two calls per attempt, three
attempts), each into the same limit.
"""

from __future__ import annotations

from typing import Any, Final

from agentcgroup.calls import feedback
from agentcgroup.records.record import CallRecord

__all__ = ["Told", "answer"]

#: What must reach CrewAI although a limit was met: the user asked for the stop.
_CONTROL_FLOW: Final = frozenset(
    {"HookAborted", "ToolExecutionFailedError", "ToolUsageLimitExceededError"}
)


class Told(str):
    """A result with a sentence in it; it speaks of one execution and is kept out of the cache."""

    __slots__ = ()


def answer(record: CallRecord, result: Any, error: Exception | None) -> Any:
    """Make the answer, in the form the callers of a tool expect.

    Where a limit ended the call a `ToolFailure` (crewai 1.15.9 and newer), which CrewAI records in
    ``TaskOutput.tool_failures`` and never caches; before that a str. A result that hides a kill
    keeps its text and has the sentence after it.
    """
    if error is not None:
        if any(base.__name__ in _CONTROL_FLOW for base in type(error).__mro__):
            raise error
        return _failure(feedback.attach(feedback.partial_output(error), record), record)
    if record.outcome != "ok":
        return _failure(feedback.attach(_text(result), record), record)
    return Told(feedback.attach(result, record)) if isinstance(result, str) else result


def _failure(told: str, record: CallRecord) -> Any:
    try:
        from crewai.tools.tool_failure import ToolFailure
    except ImportError:
        return Told(told)
    return ToolFailure(message=told, code=record.reason, retryable=False)


def _text(result: Any) -> str:
    """Return a result as the model would have read it; a ToolFailure has its own words."""
    if result is None:
        return ""
    message = getattr(result, "as_agent_message", None)
    return str(message() if callable(message) else result)
