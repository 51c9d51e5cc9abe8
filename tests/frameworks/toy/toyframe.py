"""Toyframe: a framework of agents in a few lines, which knows nothing of agentcgroup."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

_ids = itertools.count(1)


class Tool:
    """A function that an agent may call, sync or async.

    Attributes:
        uses: how often it was called.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.name = function.__name__
        self.function = function
        self.uses = 0

    def call(
        self, arguments: Mapping[str, Any], *, agent: str = "", call_id: str | None = None
    ) -> str:
        """Run the function; raise what it raises."""
        self.uses += 1
        return self._work(arguments)

    async def acall(
        self, arguments: Mapping[str, Any], *, agent: str = "", call_id: str | None = None
    ) -> str:
        """Await the function, or run it in a thread."""
        self.uses += 1
        if asyncio.iscoroutinefunction(self.function):
            return str(await self.function(**arguments))
        return await asyncio.to_thread(self._work, arguments)

    def _work(self, arguments: Mapping[str, Any]) -> str:
        return str(self.function(**arguments))


@dataclass(frozen=True)
class Result:
    """What the model is answer for one call."""

    tool: str
    text: str
    failed: bool


class Agent:
    """Calls the tools that its turns name, those of one turn at once; the last turn is a text."""

    def __init__(self, name: str, turns: Sequence[Any], tools: Sequence[Tool]) -> None:
        self.name = name
        self.tools = {tool.name: tool for tool in tools}
        self.turns = list(turns)

    def run(self) -> Iterator[Result | str]:
        """Yield each result, and the text of the last turn."""
        while not isinstance(self.turns[0], str):
            turn = self.turns.pop(0)
            with ThreadPoolExecutor(len(turn)) as pool:
                copies = [contextvars.copy_context() for _ in turn]
                yield from pool.map(lambda one, copy: copy.run(self._call, *one), turn, copies)
        yield self.turns[0]

    async def arun(self) -> AsyncIterator[Result | str]:
        """As `run`, with tasks for threads."""
        while not isinstance(self.turns[0], str):
            turn = self.turns.pop(0)
            for result in await asyncio.gather(*(self._acall(*one) for one in turn)):
                yield result
        yield self.turns[0]

    def _call(self, name: str, arguments: Mapping[str, Any]) -> Result:
        try:
            text = self.tools[name].call(arguments, agent=self.name, call_id=f"toy-{next(_ids)}")
        except Exception as error:
            return Result(name, str(error), failed=True)
        return Result(name, text, failed=False)

    async def _acall(self, name: str, arguments: Mapping[str, Any]) -> Result:
        tool, call_id = self.tools[name], f"toy-{next(_ids)}"
        try:
            text = await tool.acall(arguments, agent=self.name, call_id=call_id)
        except Exception as error:
            return Result(name, str(error), failed=True)
        return Result(name, text, failed=False)
