"""The adapter of Toyframe: every tool of it runs in `Tool.call` or `Tool.acall`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentcgroup.adapter import (
    Body,
    Call,
    CallRecord,
    FrameworkAdapter,
    Identity,
    LimitExceeded,
    Parts,
    Seam,
    StandIn,
    around_async_tool,
    around_tool,
    attach,
    is_a,
    opener,
    partial_output,
    placed,
)

_FRAMEWORK = "tests.frameworks.toy.toyframe"


def identify(tool: Any, arguments: Mapping[str, Any]) -> Identity:
    """Read the identity from the tool and the keyword arguments of `call` or `acall`."""
    return arguments.get("agent") or None, tool.name, arguments.get("call_id")


def owns(tool: Any) -> bool:
    """Return whether `tool` is a tool object of Toyframe."""
    return is_a(tool, _FRAMEWORK, "Tool")


def bodies(tool: Any) -> dict[str, Body]:
    """Return the body of a tool by the name of its attribute."""
    return {"function": Body(tool.function)}


def stand_in(call: Call, tool: Any, _arguments: Mapping[str, Any]) -> StandIn:
    """Return what `call` and `acall` run in place of `tool`; `_work` calls the function."""
    return StandIn(tool, ("_work",), function=placed(call, Body(tool.function)))


def answer(record: CallRecord, result: Any, error: Exception | None) -> str:
    """Return the answer for a call that met a limit.

    Raises:
        LimitExceeded: a limit ended the call; Toyframe's agent makes a failed result of it.
    """
    text = attach(str(result) if error is None else partial_output(error), record)
    if record.outcome == "ok":
        return text
    raise LimitExceeded(text, record=record)


def _parts() -> Parts:
    opens = opener("toyframe", identify)
    seams = (
        Seam("Tool.call", around_tool(opens, answer, stand_in), "tools are NOT contained"),
        Seam("Tool.acall", around_async_tool(opens, answer, stand_in), "tools are NOT contained"),
    )
    return Parts({_FRAMEWORK: seams}, owns, bodies)


adapter = FrameworkAdapter(
    name="toyframe",
    requires="toyframe>=1.0",
    packages=(_FRAMEWORK,),
    parts=_parts,
    lost="tools of Toyframe are NOT contained",
)
