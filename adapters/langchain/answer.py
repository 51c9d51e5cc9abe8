"""What the model is given for a call that met a limit.

Returned, not raised: create_agent's default error handling re-raises every exception of a tool
(langgraph-prebuilt 1.0.2 and newer), and the whole run would crash.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentcgroup.calls import feedback
from agentcgroup.records.record import CallRecord

if TYPE_CHECKING:
    from langchain_core.messages import ToolMessage

__all__ = ["answer"]


def answer(record: CallRecord, result: Any, error: Exception | None) -> Any:
    """Make the answer, in the form the caller of `BaseTool.run` expects.

    With a tool_call_id a ToolMessage, ``status="error"`` where a limit ended the call; without one
    (direct `invoke`, classic AgentExecutor) a str. A result that hides a kill keeps its text and
    has the sentence after it. What is control flow and not a result (interrupts, Command, an
    artifact) passes untouched.
    """
    from langchain_core.messages import ToolMessage

    if error is not None:
        if _is_control_flow(error):
            raise error
        told = feedback.attach(feedback.partial_output(error), record)
        if record.tool_call_id is None:
            return told
        return ToolMessage(told, tool_call_id=record.tool_call_id, name=record.tool, status="error")
    if isinstance(result, str):
        return feedback.attach(result, record)
    if isinstance(result, ToolMessage):
        return _extended(result, record)
    return result


def _extended(message: ToolMessage, record: CallRecord) -> ToolMessage:
    content: Any = message.content
    if isinstance(content, str):
        content = feedback.attach(content, record)
    else:
        content = [*content, {"type": "text", "text": feedback.attach("", record)}]
    status = message.status if record.outcome == "ok" else "error"
    return message.model_copy(update={"content": content, "status": status})


def _is_control_flow(error: Exception) -> bool:
    """Whether it is LangGraph's own (GraphInterrupt, ParentCommand), which must reach the graph.

    By name, since langgraph may be absent and is never imported for this. Their common base,
    GraphBubbleUp, came after langgraph 0.2.40.
    """
    names = {base.__name__ for base in type(error).__mro__}
    return not names.isdisjoint({"GraphBubbleUp", "GraphInterrupt"})
