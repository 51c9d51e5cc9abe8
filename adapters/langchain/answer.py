"""The answer to the model for a call that met a limit.

It is returned and never raised: create_agent's default error handling re-raises every exception of
a tool (langgraph-prebuilt 1.0.2 and newer), which ends the whole run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentcgroup.adapter import CallRecord, attach, partial_output

if TYPE_CHECKING:
    from langchain_core.messages import ToolMessage

__all__ = ["answer"]


def answer(record: CallRecord, result: Any, error: Exception | None) -> Any:
    """Return the answer in the form that the caller of `BaseTool.run` expects.

    With a tool_call_id that is a ToolMessage, ``status="error"`` where a limit ended the call;
    without one (direct `invoke`, classic AgentExecutor) a str. A result that hides a kill keeps its
    text, followed by the sentence. Control flow (interrupts) is raised again, and results of other
    types (Command, an artifact) are returned unchanged.
    """
    from langchain_core.messages import ToolMessage

    if error is not None:
        if _is_control_flow(error):
            raise error
        text = attach(partial_output(error), record)
        if record.tool_call_id is None:
            return text
        return ToolMessage(text, tool_call_id=record.tool_call_id, name=record.tool, status="error")
    if isinstance(result, str):
        return attach(result, record)
    if isinstance(result, ToolMessage):
        return _extended(result, record)
    return result


def _extended(message: ToolMessage, record: CallRecord) -> ToolMessage:
    content: Any = message.content
    if isinstance(content, str):
        content = attach(content, record)
    else:
        content = [*content, {"type": "text", "text": attach("", record)}]
    status = message.status if record.outcome == "ok" else "error"
    return message.model_copy(update={"content": content, "status": status})


def _is_control_flow(error: Exception) -> bool:
    """Return whether LangGraph raised it for itself (GraphInterrupt, ParentCommand).

    Such exceptions must reach the graph. They are recognised by name, since langgraph may be absent
    and is never imported for this. Their common base, GraphBubbleUp, came after langgraph 0.2.40.
    """
    names = {base.__name__ for base in type(error).__mro__}
    return not names.isdisjoint({"GraphBubbleUp", "GraphInterrupt"})
