"""The wrapped methods: `BaseTool.run` and `BaseTool.arun`, and `ainvoke` for cancellation.

`_run` is never wrapped, since LangChain infers schemas from its signature. No class of
langchain-core, langchain, langgraph or deepagents overrides `run` or `arun`; a subclass that does
and calls `super()` is still one call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from agentcgroup.adapter import Seam, around_async_tool, around_tool, cancels_calls, opener
from agentcgroup.adapters.langchain.answer import answer
from agentcgroup.adapters.langchain.body import stand_in
from agentcgroup.adapters.langchain.identity import identify

__all__ = ["SEAMS"]

_open = opener("langchain", identify)
_run = around_tool(_open, answer, stand_in)
_arun = around_async_tool(_open, answer, stand_in)
#: A tool without a coroutine runs in a thread below `ainvoke`.
_ainvoke = cancels_calls(unless="coroutine")

_UNCONTAINED: Final = "calls that go through it are NOT contained"
_UNCANCELLED: Final = "a sync tool in a thread runs on when its agent is cancelled"

SEAMS: Final[Mapping[str, Sequence[Seam]]] = {
    "langchain_core.tools.base": (
        Seam("BaseTool.run", _run, _UNCONTAINED),
        Seam("BaseTool.arun", _arun, _UNCONTAINED),
    ),
    "langchain_core.tools.structured": (Seam("StructuredTool.ainvoke", _ainvoke, _UNCANCELLED),),
    "langchain_core.tools.simple": (Seam("Tool.ainvoke", _ainvoke, _UNCANCELLED),),
}
