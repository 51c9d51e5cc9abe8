"""CrewAI's tools with their bodies in workers: arguments, results and answers."""

from __future__ import annotations

import inspect
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from crewai import Agent, Crew, Task
from crewai.mcp.client import MCPClient
from crewai.mcp.transports.stdio import StdioTransport
from crewai.tools import BaseTool, tool
from crewai.tools.mcp_native_tool import MCPNativeTool
from crewai.tools.structured_tool import CrewStructuredTool, ToolUsageLimitExceededError

import agentcgroup
from agentcgroup import Session
from agentcgroup.isolation import inside
from tests.support.scripted import Turn, crewai_model

#: For the fixture `session`.
FRAMEWORK = "crewai"
RULES = [
    {"tool": "*", "isolation": "process"},
    {"tool": "search", "reuse": 10},
]

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:crewai"),  # raised by its own code
    pytest.mark.timeout(900),  # the worker of a tool class imports all of CrewAI
]


def elsewhere(a: int) -> str:
    """Say whether this runs in a worker."""
    return f"{a} elsewhere: {inside()}"


class Search(BaseTool):
    """A tool that is not made of a function."""

    name: str = "search"
    description: str = "Search."
    index: str = "an index"

    def _run(self, query: str) -> str:
        return f"{query} in {self.index}, elsewhere: {inside()}"


def _sent(*turns: Turn, tools: list[Any], react: bool = False, **options: Any) -> list[str]:
    model = crewai_model(*turns, react=react)
    agent = Agent(role="coder", goal="Go.", backstory="Old.", llm=model, tools=tools, **options)
    task = Task(description="Do it.", expected_output="Done.", agent=agent)
    Crew(agents=[agent], tasks=[task]).kickoff()
    return [str(message["content"]) for message in model.seen[-1]]


def counted(a: int) -> str:
    """Say what came."""
    return f"{a} came"


@pytest.mark.parametrize("react", [False, True], ids=["native", "react"])
def test_usage_is_counted_as_it_is_inline(react: bool) -> None:
    """The app counts: the limit of uses holds, and the model gets the same answer."""
    told: list[list[str]] = []
    for isolation in ("inline", "process"):
        config = {"limits": {"call": {"isolation": isolation}}}
        with agentcgroup.register("crewai", config=config) as session:
            limited = tool("limited", max_usage_count=2)(counted)
            turns: list[Turn] = [[("limited", {"a": a})] for a in (1, 2, 3)]
            told.append(_sent(*turns, "done", tools=[limited], react=react))
            assert limited.current_usage_count == 2
            # A use beyond the limit is sent to no worker.
            ran = [record for record in session.records if record.isolation == isolation]
            assert len(ran) >= 1
        agentcgroup.unregister()
    assert told[0] == told[1]
    assert "1 came" in "\n".join(told[1])


def test_a_structured_tool_counts_on_itself_and_on_its_tool(session: Session) -> None:
    """`invoke` runs the function of the tool that it was made from."""
    original = tool("original", max_usage_count=1)(elsewhere)
    structured = original.to_structured_tool()
    assert structured.invoke({"a": 1}) == "1 elsewhere: True"
    assert (structured.current_usage_count, original.current_usage_count) == (1, 1)
    with pytest.raises(ToolUsageLimitExceededError):
        structured.invoke({"a": 1})
    bare: Any = CrewStructuredTool.from_function(elsewhere)
    assert bare.invoke({"a": 2}) == "2 elsewhere: True"


def test_concurrent_calls_of_one_tool_are_all_counted(session: Session) -> None:
    """The app's process uses the tool's own lock for the counter."""
    shared = tool("shared")(elsewhere)
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda a: shared.run(a=a), range(12)))
    assert results == [f"{a} elsewhere: True" for a in range(12)]
    assert shared.current_usage_count == 12


def test_async_functions_run_in_an_event_loop_of_the_worker(session: Session) -> None:
    """`run` makes the loop for them."""

    async def later(a: int) -> str:
        """Say it later."""
        return elsewhere(a)

    late = tool("late")(later)
    assert late.run(a=1) == "1 elsewhere: True"


def test_a_tool_class_is_sent_without_its_lock(session: Session) -> None:
    """Its attributes are sent with it; the app counts its uses, whichever way it is run."""
    search = Search()
    assert search.run(query="this") == "this in an index, elsewhere: True"
    structured = search.to_structured_tool()
    assert structured.invoke({"query": "that"}) == "that in an index, elsewhere: True"
    assert search.current_usage_count == 2
    assert {record.isolation for record in session.records} == {"process"}


class Applies(BaseTool):
    """A tool with a field ``func``, the name by which other tools hold their function."""

    name: str = "applies"
    description: str = "Apply."
    func: Any = elsewhere

    def _run(self, a: int) -> str:
        return f"{inside()} and {self.func(a)}"


def test_a_field_of_a_tool_class_is_not_its_body(session: Session) -> None:
    """All of its `_run` is in the worker, and not only the function that it calls."""
    assert Applies().run(a=1) == "True and 1 elsewhere: True"


def test_delegation_is_refused(session: Session) -> None:
    """The calls of the coworker have workers of their own."""
    from crewai.tools.agent_tools.delegate_work_tool import DelegateWorkTool

    helper = Agent(role="helper", goal="Help.", backstory="New.", llm=crewai_model("helped"))
    delegate = DelegateWorkTool(agents=[helper], description="Delegate.")
    told = str(delegate.run(task="help", context="now", coworker="helper"))
    assert "it runs agents" not in told  # the log has the reason; the answer only the object
    assert "DelegateWorkTool" in told
    (record,) = session.records
    assert record.outcome == "rejected"


class Busy(BaseTool):
    """A tool that says how many CPU seconds its process has used."""

    name: str = "busy"
    description: str = "Say it."

    def _run(self) -> float:
        return time.process_time()


@pytest.mark.skipif(
    [int(part) for part in version("crewai").split(".")[:2]] < [1, 15],
    reason="its event bus starts a thread when it is imported",
)
def test_workers_inherit_crewai_from_the_fork_server(session: Session) -> None:
    """A fork starts with no CPU time used; importing CrewAI takes some seconds of it."""
    busy = Busy()
    busy.run()
    assert session._services.deferred.drain(60)
    assert session._services.workers().wait_preloaded(600)
    used = [busy.run() for _ in range(5)]  # the first ones in workers from before
    assert used[-1] < 0.5, used


def test_an_mcp_tool_runs_inline_and_its_server_in_the_call(session: Session) -> None:
    """Each call starts its server anew."""
    server = str(Path(__file__).with_name("mcp_server.py"))

    def client() -> MCPClient:
        return MCPClient(StdioTransport(sys.executable, [server]))

    has_factory = "client_factory" in inspect.signature(MCPNativeTool.__init__).parameters
    connects: Any = client if has_factory else client()
    told = MCPNativeTool(connects, "server_cgroup", {"description": "Say it."}, "test").run()
    (record,) = session.records
    assert (record.isolation, record.outcome) == ("inline", "ok")
    assert str(record.cgroup).rpartition("/")[2] in told
