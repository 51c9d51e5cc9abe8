"""Models that say what a test tells them to, for the real frameworks.

Each is told turn by turn: a list of (tool name, arguments) to call at once, or the final text. A
framework is imported by its own model only. What a model was sent it keeps in `seen`, AutoGen's in
`create_calls`.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from autogen_ext.models.replay import ReplayChatCompletionClient

Turn: TypeAlias = Sequence[tuple[str, dict[str, Any]]] | str

_ids = itertools.count(1)


def langchain_model(*turns: Turn) -> Any:
    """Return a chat model for LangChain."""
    from langchain_core.messages import AIMessage

    def message(turn: Turn) -> AIMessage:
        if isinstance(turn, str):
            return AIMessage(content=turn)
        calls = [
            {"name": name, "args": arguments, "id": f"call_{next(_ids)}"}
            for name, arguments in turn
        ]
        return AIMessage(content="", tool_calls=calls)

    return _langchain_class()(messages=iter([message(turn) for turn in turns]), seen=[])


@functools.cache
def _langchain_class() -> Any:
    from langchain_core.language_models.fake_chat_models import GenericFakeChatModel

    class LangChainModel(GenericFakeChatModel):
        seen: list[Any]

        def bind_tools(self, tools: Any, **kwargs: Any) -> LangChainModel:
            return self

        def _generate(self, messages: list[Any], *args: Any, **kwargs: Any) -> Any:
            self.seen.append(list(messages))
            return super()._generate(messages, *args, **kwargs)

    return LangChainModel


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
    """Return an LLM for CrewAI: with function calling, or, one call a turn, the ReAct text.

    A turn may be a function of the names of the tools that are offered.
    """
    model = _crewai_class(react)(model="scripted")
    model.__dict__.update(turns=iter(turns), seen=[])
    return model


@functools.cache
def _crewai_class(react: bool) -> Any:
    from crewai import BaseLLM

    class CrewAIModel(BaseLLM):
        def call(self, messages: Any, tools: Any = None, *args: Any, **kwargs: Any) -> Any:
            self.__dict__["seen"].append(list(messages))
            turn = next(self.__dict__["turns"])
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

    return CrewAIModel


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
