"""The answer to the model for a call that met a limit, in the form that each seam's caller expects.

For AssistantAgent it is a result and never an exception: since 0.6.2 the agent waits for ever for
the end of a tool call that raised (microsoft/autogen#7956).
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from agentcgroup.adapter import CallRecord, LimitExceeded, attach, partial_output

if TYPE_CHECKING:
    from autogen_core import FunctionCall
    from autogen_core.models import FunctionExecutionResult

__all__ = ["ToolFailed", "answer", "answer_code", "answer_value", "failure"]

#: The exit codes of AutoGen's own executors for a timeout, and of a shell for SIGKILL.
_EXIT_TIMEOUT, _EXIT_KILLED = 124, 137


class ToolFailed(Exception):
    """Carries AutoGen's own error result through `arun`, for which the tool has failed then.

    Attributes:
        result: the error result.
        printed: what the tool had printed when it raised, "" where the exception has no output.
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
    """Return the answer of `AssistantAgent._execute_tool_call`.

    A result that hides a kill keeps its text, followed by the sentence. So does an error, with what
    the tool had printed in place of the error's text, where it had printed anything.
    """
    if isinstance(error, ToolFailed):
        result = error.result
    elif error is not None:
        return failure(tool_call, attach(partial_output(error), record))
    _, executed = result
    printed = error.printed if error is not None else ""
    content = attach(printed or executed.content, record)
    is_error = executed.is_error or record.outcome != "ok"
    return tool_call, executed.model_copy(update={"content": content, "is_error": is_error})


def failure(tool_call: FunctionCall, content: str) -> tuple[FunctionCall, FunctionExecutionResult]:
    """Return the result that AssistantAgent itself makes for a tool that raises."""
    from autogen_core.models import FunctionExecutionResult

    return tool_call, FunctionExecutionResult(
        content=content, call_id=tool_call.id, is_error=True, name=tool_call.name
    )


def answer_value(record: CallRecord, result: Any, error: Exception | None) -> Any:
    """Return the answer of `BaseTool.run_json`, whose result has the tool's own type.

    The sentence is appended to a str, or to an ``output`` that is one; other results are unchanged.

    Raises:
        LimitExceeded: the tool raised; the callers of `run_json` make an error result of it.
    """
    if error is not None:
        text = attach(partial_output(error), record)
        raise LimitExceeded(text, record=record) from error
    if isinstance(result, str):
        return attach(result, record)
    if isinstance(getattr(result, "output", None), str):
        result = copy.copy(result)
        result.output = attach(result.output, record)
    return result


def answer_code(record: CallRecord, result: Any, error: Exception | None) -> Any:
    """Return the answer of `CodeExecutorAgent.execute_code_block`, a CodeResult."""
    from autogen_core.code_executor import CodeResult

    if error is None:
        return answer_value(record, result, None)
    return CodeResult(
        exit_code=_EXIT_TIMEOUT if record.outcome == "timeout" else _EXIT_KILLED,
        output=attach(partial_output(error), record),
    )
