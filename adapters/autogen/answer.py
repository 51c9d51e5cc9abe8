"""What the model is given for a call that met a limit, in the form each seam's caller expects.

AssistantAgent is given a result and never an exception: since 0.6.2 it waits for ever for the end
of a tool call that raised (microsoft/autogen#7956).
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from agentcgroup.calls import feedback
from agentcgroup.errors import LimitExceeded
from agentcgroup.records.record import CallRecord

if TYPE_CHECKING:
    from autogen_core import FunctionCall
    from autogen_core.models import FunctionExecutionResult

__all__ = ["ToolFailed", "answer", "answer_code", "answer_value", "failure"]

#: What AutoGen's own executors give for code that took too long, and the shell's for SIGKILL.
_EXIT_TIMEOUT, _EXIT_KILLED = 124, 137


class ToolFailed(Exception):
    """Carries AutoGen's own error result past `execution`, which so knows that the tool failed.

    Attributes:
        result: the error result.
        printed: what the tool had printed when it raised, "" when it says nothing.
    """

    def __init__(
        self, result: tuple[FunctionCall, FunctionExecutionResult], printed: str = ""
    ) -> None:
        super().__init__(result[1].content)
        self.result = result
        self.printed = printed


def answer(
    tool_call: FunctionCall, record: CallRecord, result: Any, error: Exception | None
) -> tuple[FunctionCall, FunctionExecutionResult]:
    """Make the answer of `AssistantAgent._execute_tool_call`.

    A result that hides a kill, and an error text, keep their text and have the sentence after it;
    better than the error text is what the tool had printed.
    """
    if isinstance(error, ToolFailed):
        result = error.result
    elif error is not None:
        return failure(tool_call, feedback.attach(feedback.partial_output(error), record))
    _, told = result
    printed = error.printed if error is not None else ""
    content = feedback.attach(printed or told.content, record)
    is_error = told.is_error or record.outcome != "ok"
    return tool_call, told.model_copy(update={"content": content, "is_error": is_error})


def failure(tool_call: FunctionCall, content: str) -> tuple[FunctionCall, FunctionExecutionResult]:
    """Return what AssistantAgent itself makes of a tool that raises."""
    from autogen_core.models import FunctionExecutionResult

    return tool_call, FunctionExecutionResult(
        content=content, call_id=tool_call.id, is_error=True, name=tool_call.name
    )


def answer_value(record: CallRecord, result: Any, error: Exception | None) -> Any:
    """Make the answer of `BaseTool.run_json`: its callers turn an exception into an error result.

    A result is of the tool's own type: the sentence goes into a str or its ``output``, what has
    room for no sentence stays as it is.
    """
    if error is not None:
        told = feedback.attach(feedback.partial_output(error), record)
        raise LimitExceeded(told, record=record) from error
    if isinstance(result, str):
        return feedback.attach(result, record)
    if isinstance(getattr(result, "output", None), str):
        result = copy.copy(result)
        result.output = feedback.attach(result.output, record)
    return result


def answer_code(record: CallRecord, result: Any, error: Exception | None) -> Any:
    """Make the answer of `CodeExecutorAgent.execute_code_block`, a CodeResult."""
    from autogen_core.code_executor import CodeResult

    if error is None:
        return answer_value(record, result, None)
    return CodeResult(
        exit_code=_EXIT_TIMEOUT if record.outcome == "timeout" else _EXIT_KILLED,
        output=feedback.attach(feedback.partial_output(error), record),
    )
