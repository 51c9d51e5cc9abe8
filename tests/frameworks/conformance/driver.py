"""The interface of a column: agents of a framework with scripted models, and their replies."""

from __future__ import annotations

import asyncio
import importlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import pytest

from tests.support.scripted import Turn

__all__ = ["DRIVERS", "Driver", "Reply", "ToolAnswer", "load"]

#: The columns of the table, with the module and the class of each, which `load` imports.
DRIVERS: Final[Mapping[str, tuple[str, str]]] = {
    "langchain-sync": ("langchain", "Sync"),
    "langchain-async": ("langchain", "Async"),
    "autogen-agent": ("autogen", "Agent"),
    "autogen-team": ("autogen", "Team"),
    "crewai-native": ("crewai", "Native"),
    "crewai-react": ("crewai", "React"),
    "crewai-async": ("crewai", "Async"),
}


@dataclass(frozen=True)
class ToolAnswer:
    """The model's input for one call; `failed` is the framework's own mark of an error."""

    tool: str
    text: str
    failed: bool


@dataclass(frozen=True)
class Reply:
    """The end of an agent's run: its final text, and its model's inputs in order."""

    text: str
    answers: tuple[ToolAnswer, ...]


class Driver(ABC):
    """One framework on one of its paths."""

    framework: ClassVar[str]

    #: The rows that the framework itself cannot have, each with a reason and a reference.
    absent: ClassVar[Mapping[str, str]] = {}

    #: Whether a turn of the model may call several tools at once.
    parallel: ClassVar[bool] = True

    #: Whether the framework has an option to run a tool again that raised.
    retries: ClassVar[bool] = False

    #: Whether the framework, in this version, marks the answers of tools that are errors.
    marks_errors: ClassVar[bool] = True

    #: The name in records of the tool that executes code.
    code_tool: ClassVar[str] = ""

    @abstractmethod
    def build(
        self,
        *turns: Turn,
        tools: Sequence[Callable[..., Any]] = (),
        name: str = "coder",
        retry: bool = False,
    ) -> Any:
        """Make an agent of this name whose model returns these turns; `tools` are functions."""

    @abstractmethod
    def build_nested(self, *turns: Turn, tools: Sequence[Callable[..., Any]]) -> Any:
        """Make an agent "outer" whose one call runs an agent "inner", which returns these turns."""

    @abstractmethod
    def build_mcp(self, tool: str, command: Sequence[str], env: Mapping[str, str]) -> Any:
        """Make an agent that calls `tool`, without arguments, of an MCP server over stdio."""

    def build_code(self, command: str, folder: Path) -> Any:
        """Make an agent that has the framework's own executor run a shell command."""
        raise NotImplementedError

    @abstractmethod
    async def arun(self, agent: Any) -> Reply:
        """Run the agent."""

    def run(self, agent: Any) -> Reply:
        """Run the agent on this thread."""
        return asyncio.run(self.arun(agent))

    @abstractmethod
    def stream(self, agent: Any) -> Reply:
        """Run the agent with the framework's streaming method."""

    async def give_up(self, agent: Any, started: Callable[[], Awaitable[None]]) -> None:
        """Run the agent and, once `started`, cancel it the way the framework has for it."""
        task = asyncio.create_task(self.arun(agent))
        await started()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    @abstractmethod
    def break_identity(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have every function of the adapter that reads names raise."""


def load(column: str) -> Driver:
    """Import the framework and return its driver."""
    module, name = DRIVERS[column]
    driver: Driver = getattr(importlib.import_module(f"{__package__}.{module}"), name)()
    return driver
