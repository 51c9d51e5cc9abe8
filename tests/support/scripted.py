"""Models that say what a test tells them to, for the real frameworks.

Each framework is imported by its own function: a test of one needs no other.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autogen_ext.models.replay import ReplayChatCompletionClient

#: One turn of a model: the (tool name, arguments) it calls, or its final text.
Turn = Sequence[tuple[str, dict[str, Any]]] | str

_ids = itertools.count(1)


def langchain_model(*turns: Turn) -> Any:
    """Return a chat model that says these turns; its `seen` keeps what it was sent."""
    from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
    from langchain_core.messages import AIMessage, BaseMessage

    class LangChainModel(GenericFakeChatModel):
        seen: list[list[BaseMessage]]

        def bind_tools(self, tools: Any, **kwargs: Any) -> LangChainModel:
            return self

        def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Any:
            self.seen.append(list(messages))
            return super()._generate(messages, *args, **kwargs)

    def message(turn: Turn) -> AIMessage:
        if isinstance(turn, str):
            return AIMessage(content=turn)
        calls = [
            {"name": name, "args": arguments, "id": f"call_{next(_ids)}"}
            for name, arguments in turn
        ]
        return AIMessage(content="", tool_calls=calls)

    return LangChainModel(messages=iter([message(turn) for turn in turns]), seen=[])


def autogen_model(*turns: Turn) -> ReplayChatCompletionClient:
    """Return a model client that says these turns; `create_calls` keeps what it was sent."""
    from autogen_core import FunctionCall
    from autogen_core.models import CreateResult, RequestUsage
    from autogen_ext.models.replay import ReplayChatCompletionClient

    def message(turn: Turn) -> CreateResult | str:
        if isinstance(turn, str):
            return turn
        calls = [
            FunctionCall(id=f"call_{next(_ids)}", name=name, arguments=json.dumps(arguments))
            for name, arguments in turn
        ]
        return CreateResult(
            finish_reason="function_calls",
            content=calls,
            usage=RequestUsage(prompt_tokens=0, completion_tokens=0),
            cached=False,
        )

    return ReplayChatCompletionClient(
        [message(turn) for turn in turns],
        model_info={
            "vision": False,
            "function_calling": True,
            "json_output": False,
            "structured_output": False,
            "family": "unknown",
        },
    )


def crewai_model(*turns: Turn | Callable[[list[str]], Turn], react: bool = False) -> Any:
    """Return an LLM that says these turns; its `seen` keeps what it was sent.

    It has function calling, or with `react` writes the text (one call a turn). A turn may be a
    function of the names of the tools that it is offered.
    """
    from crewai import BaseLLM

    class CrewAIModel(BaseLLM):
        def call(self, messages: Any, tools: Any = None, *args: Any, **kwargs: Any) -> Any:
            seen.append(list(messages))
            turn = next(said)
            if callable(turn):
                turn = turn([one["function"]["name"] for one in tools])
            return _react_text(turn) if react else _native_calls(turn)

        async def acall(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
            return self.call(messages, *args, **kwargs)

        def supports_function_calling(self) -> bool:
            return not react

        def supports_stop_words(self) -> bool:
            return False

        def get_context_window_size(self) -> int:
            return 100_000

    said, seen = iter(turns), []
    model = CrewAIModel(model="scripted")
    model.__dict__["seen"] = seen  # a pydantic model since 1.14
    return model


def _native_calls(turn: Turn) -> Any:
    if isinstance(turn, str):
        return turn
    return [
        {
            "id": f"call_{next(_ids)}",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments)},
        }
        for name, arguments in turn
    ]


def _react_text(turn: Turn) -> str:
    if isinstance(turn, str):
        return f"Thought: I know.\nFinal Answer: {turn}"
    ((name, arguments),) = turn
    return f"Thought: I act.\nAction: {name}\nAction Input: {json.dumps(arguments)}"
