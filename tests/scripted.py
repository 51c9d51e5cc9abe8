"""Models that say what a test tells them to, for the real frameworks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage


class LangChainModel(GenericFakeChatModel):
    """A chat model that calls the tools it is told to, turn by turn, and keeps what it was sent."""

    seen: list[list[BaseMessage]]

    def bind_tools(self, tools: Any, **kwargs: Any) -> LangChainModel:
        return self

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Any:
        self.seen.append(list(messages))
        return super()._generate(messages, *args, **kwargs)


_ids = itertools.count(1)


def langchain_model(*turns: Sequence[tuple[str, dict[str, Any]]] | str) -> LangChainModel:
    """Return a model: each turn is a list of (tool name, arguments), or the final text."""

    def message(turn: Sequence[tuple[str, dict[str, Any]]] | str) -> AIMessage:
        if isinstance(turn, str):
            return AIMessage(content=turn)
        calls = [
            {"name": name, "args": arguments, "id": f"call_{next(_ids)}"}
            for name, arguments in turn
        ]
        return AIMessage(content="", tool_calls=calls)

    return LangChainModel(messages=iter([message(turn) for turn in turns]), seen=[])
