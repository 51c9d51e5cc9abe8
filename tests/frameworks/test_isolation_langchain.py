"""LangChain's tools with their bodies in workers: arguments, results and answers."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, ClassVar

import pytest
from langchain.agents import create_agent
from langchain.tools import InjectedState, InjectedStore, ToolRuntime
from langchain_core.callbacks import BaseCallbackHandler, CallbackManagerForToolRun
from langchain_core.messages import ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import (
    BaseTool,
    InjectedToolCallId,
    StructuredTool,
    Tool,
    ToolException,
    tool,
)
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command
from pydantic import BaseModel, PrivateAttr

from agentcgroup import Session
from agentcgroup.isolation import inside
from tests.support.scripted import Turn, langchain_model

#: For the fixture `session`.
FRAMEWORK = "langchain"
RULES = [{"tool": "*", "isolation": "process"}]

_APP = os.getpid()


class Counter(BaseTool):
    """A tool with a state of its own, that calls its run manager."""

    name: str = "counter"
    description: str = "Count."
    count: int = 0

    def _run(self, by: int, run_manager: CallbackManagerForToolRun | None = None) -> str:
        assert run_manager is not None
        run_manager.on_text("counting")
        self.count += by
        return f"{self.count} elsewhere: {inside()}"


def _ask(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_call", "name": name, "args": arguments, "id": "call-1"}


def _told(*turns: Turn, tools: list[Any], **options: Any) -> list[ToolMessage]:
    agent = create_agent(langchain_model(*turns), tools, name="coder", **options)
    state = agent.invoke({"messages": [("user", "go")]})
    return [one for one in state["messages"] if isinstance(one, ToolMessage)]


def test_a_tool_class_is_sent_and_its_changes_are_lost(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning names the attribute; `_run` and the schema are as they were."""
    counter = Counter()
    run, schema = type(counter)._run, counter.get_input_schema().model_json_schema()
    with caplog.at_level(logging.WARNING):
        assert [counter.run({"by": 2}) for _ in range(2)] == ["2 elsewhere: True"] * 2
        assert asyncio.run(counter.arun({"by": 3})) == "3 elsewhere: True"
    assert counter.count == 0
    warned = [one.message for one in caplog.records if "changed its own" in one.message]
    assert len(warned) == 1
    assert "tool 'counter' changed its own count in a worker process" in warned[0]
    assert "config= rule 1" in warned[0]
    assert type(counter)._run is run
    assert counter.get_input_schema().model_json_schema() == schema
    assert {record.isolation for record in session.records} == {"process"}


def test_callbacks_are_called_in_the_app(session: Session) -> None:
    """LangChain calls its callbacks; a text that the tool gives to its run manager reaches none."""

    class Ear(BaseCallbackHandler):
        heard: ClassVar[list[tuple[str, int]]] = []

        def on_tool_start(self, *args: Any, **kwargs: Any) -> None:
            self.heard.append(("start", os.getpid()))

        def on_tool_end(self, *args: Any, **kwargs: Any) -> None:
            self.heard.append(("end", os.getpid()))

        def on_text(self, *args: Any, **kwargs: Any) -> None:
            self.heard.append(("text", os.getpid()))

    Counter().invoke({"by": 1}, {"callbacks": [Ear()]})
    assert Ear.heard == [("start", _APP), ("end", _APP)]


def test_what_is_injected_arrives(session: Session) -> None:
    """State, id, config, and a `ToolRuntime` with all three."""

    @tool
    def injected(
        by: int,
        config: RunnableConfig,
        state: Annotated[dict[str, Any], InjectedState],
        call_id: Annotated[str, InjectedToolCallId],
    ) -> str:
        """Return what was injected."""
        name = config["metadata"]["lc_agent_name"]
        return f"{by} {name} {len(state['messages'])} {call_id} {inside()}"

    @tool
    def runs(by: int, runtime: ToolRuntime) -> str:
        """Return what was injected."""
        runtime.stream_writer("nobody hears")
        count = len(runtime.state["messages"])
        return f"{by} {count} {runtime.tool_call_id} {inside()}"

    first, second = _told(
        [("injected", {"by": 1})], [("runs", {"by": 2})], "done", tools=[injected, runs]
    )
    assert first.content == f"1 coder 2 {first.tool_call_id} True"
    assert second.content == f"2 4 {second.tool_call_id} True"


def test_a_tool_with_the_graphs_store_is_refused_before_it_runs(session: Session) -> None:
    """The store is in the app."""

    @tool
    def stores(store: Annotated[Any, InjectedStore()]) -> str:
        """Use the store."""
        raise AssertionError("it ran")

    (refused,) = _told([("stores", {})], "done", tools=[stores], store=InMemoryStore())
    assert refused.status == "error"
    assert "the graph's store (InMemoryStore)" in str(refused.content)


def test_results_of_every_form_are_returned(session: Session) -> None:
    """Artifacts, commands, and errors that the framework handles."""

    @tool(response_format="content_and_artifact")
    def draws() -> tuple[str, list[int]]:
        """Draw."""
        return "drawn", [os.getpid()]

    @tool
    def commands(call_id: Annotated[str, InjectedToolCallId]) -> Command[Any]:
        """Update the state."""
        return Command(update={"messages": [ToolMessage("updated", tool_call_id=call_id)]})

    @tool
    def fails() -> str:
        """Fail."""
        raise ToolException("not today")

    message = draws.invoke(_ask("draws"))
    assert message.content == "drawn"
    assert message.artifact != [_APP]
    (updated,) = _told([("commands", {})], "done", tools=[commands])
    assert updated.content == "updated"
    fails.handle_tool_error = lambda error: f"handled in the app: {not inside()} {error}"
    assert fails.invoke(_ask("fails")).content == "handled in the app: True not today"
    with pytest.raises(ValueError, match="mine"):
        Tool("raises", lambda _: int("mine"), "Raise.").invoke("x")


def test_concurrent_calls_of_one_tool_do_not_mix(session: Session) -> None:
    """Each call has its own stand-in and its own worker."""
    step = 7

    @tool
    def add(a: int) -> str:
        """Add."""
        return f"{a + step} {os.getpid()}"

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda a: add.invoke({"a": a}).split(), range(24)))
    assert [int(result) for result, _ in results] == [a + step for a in range(24)]
    assert len({pid for _, pid in results}) == 24


def test_the_attribute_that_cannot_be_sent_is_named(session: Session) -> None:
    """Also a private attribute of a tool class; the tool is not run."""

    class Locks(BaseTool):
        name: str = "locks"
        description: str = "Lock."
        _lock: Any = PrivateAttr(default_factory=threading.Lock)

        def _run(self) -> str:
            raise AssertionError("it ran")

    message = Locks().invoke(_ask("locks"))
    assert message.status == "error"
    assert "function 'Locks._run'.tool._lock (_thread.lock); by config= rule 1" in message.content
    assert session.records[-1].outcome == "rejected"


def test_an_object_that_is_called_like_a_coroutine_function_is_awaited(session: Session) -> None:
    """In the worker, as it would be in the app."""

    class Later:
        async def __call__(self, a: int) -> str:
            return f"{a} elsewhere: {inside()}"

    class Arguments(BaseModel):
        a: int

    late = StructuredTool(
        name="late", description="Late.", args_schema=Arguments, coroutine=Later()
    )
    assert asyncio.run(late.ainvoke({"a": 1})) == "1 elsewhere: True"


def test_a_generator_is_refused_before_it_runs(session: Session) -> None:
    """Its values exist only in the process that iterates it."""

    @tool
    def yields() -> Any:
        """Yield."""
        yield 1

    message = yields.invoke(_ask("yields"))
    assert message.status == "error"
    assert "the result of function 'yields' (a generator)" in message.content
    (record,) = session.records
    assert record.outcome == "rejected"


def test_a_result_that_cannot_be_sent_back_is_one_clear_error(session: Session) -> None:
    """The tool has run, so it is not run a second time."""

    @tool
    def opens() -> Any:
        """Return an object that cannot be pickled."""
        return [threading.Lock()]

    message = opens.invoke(_ask("opens"))
    assert message.status == "error"
    assert "has run, but gave no result" in message.content
    assert "the result[0] (_thread.lock)" in message.content
    (record,) = session.records
    assert (record.outcome, record.isolation) == ("error", "process")
