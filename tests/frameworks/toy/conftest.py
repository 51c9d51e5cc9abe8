"""Toyframe as a column of the conformance table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.frameworks.conformance.conftest import nothing_left, session, token
from tests.frameworks.conformance.driver import Driver, Reply, ToolAnswer
from tests.frameworks.toy import toyframe, toyframe_agentcgroup
from tests.support.faults import break_function
from tests.support.scripted import Turn

__all__ = ["distribution", "driver", "nothing_left", "session", "token"]


class Async(Driver):
    """`Agent.arun`."""

    framework = "toyframe"

    def build(
        self,
        *turns: Turn,
        tools: Sequence[Callable[..., Any]] = (),
        name: str = "coder",
        retry: bool = False,
    ) -> toyframe.Agent:
        return toyframe.Agent(name, turns, [toyframe.Tool(one) for one in tools])

    def build_nested(self, *turns: Turn, tools: Sequence[Callable[..., Any]]) -> toyframe.Agent:
        inner = self.build(*turns, tools=tools, name="inner")
        return self.build([("ask", {})], "done", tools=[self._asking(inner)], name="outer")

    def _asking(self, inner: toyframe.Agent) -> Callable[[], Any]:
        async def ask() -> str:
            return (await self.arun(inner)).text

        return ask

    def build_mcp(self, tool: str, command: Sequence[str], env: Mapping[str, str]) -> Any:
        raise NotImplementedError

    async def arun(self, agent: toyframe.Agent) -> Reply:
        return _reply([piece async for piece in agent.arun()])

    def stream(self, agent: toyframe.Agent) -> Reply:
        return self.run(agent)

    def break_identity(self, monkeypatch: pytest.MonkeyPatch) -> None:
        break_function(monkeypatch, toyframe_agentcgroup.identify)


class Sync(Async):
    """`Agent.run`."""

    absent: ClassVar[Mapping[str, str]] = {
        "async_tool": "only `arun` awaits tools",
        "isolated_async_tool": "only `arun` awaits tools",
        "cancelled": "only `arun` can be cancelled",
    }

    def _asking(self, inner: toyframe.Agent) -> Callable[[], Any]:
        def ask() -> str:
            return self.run(inner).text

        return ask

    def run(self, agent: toyframe.Agent) -> Reply:
        return _reply(list(agent.run()))


def _reply(pieces: list[toyframe.Result | str]) -> Reply:
    *results, text = pieces
    return Reply(str(text), tuple(ToolAnswer(one.tool, one.text, one.failed) for one in results))


@pytest.fixture(params=[Async, Sync])
def driver(request: pytest.FixtureRequest, distribution: Path) -> Driver:
    """Give a path of the framework; a row that it cannot have is skipped."""
    driver: Driver = request.param()
    row = request.function.__name__.removeprefix("test_")
    if row in driver.absent:
        pytest.skip(driver.absent[row])
    return driver


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Declare the distributions of the framework and of its adapter; return their folder."""
    for name, points in {
        "toyframe": "",
        "toyframe_agentcgroup": "[agentcgroup.adapters]\n"
        f"toyframe = {toyframe_agentcgroup.__name__}:adapter\n",
    }.items():
        info = tmp_path / "installed" / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(str(tmp_path / "installed"))
    return tmp_path / "installed"
