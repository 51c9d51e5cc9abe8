"""Isolated tools in a graph of LangGraph: what needs the graph runs where the graph is."""

from __future__ import annotations

import asyncio
import importlib
import sys
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ToolRetryMiddleware
from langchain.tools import InjectedState, InjectedStore, ToolRuntime
from langchain_core.callbacks import BaseCallbackHandler, dispatch_custom_event
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import BaseTool, InjectedToolCallId, StructuredTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_config, get_store, get_stream_writer
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.runtime import get_runtime
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command, Send, interrupt
from typing_extensions import TypedDict

from agentcgroup import Session
from agentcgroup.isolation import inside
from tests.support.scripted import Turn, langchain_model

#: For the fixture `session`.
FRAMEWORK = "langchain"
RULES = [
    {"tool": "*", "isolation": "process", "on_unshippable": "inline"},
    {"tool": "strict_*", "on_unshippable": "error"},
]

SERVER = str(Path(__file__).parent / "mcp_talking_server.py")


def _told(*turns: Turn, tools: list[Any], **options: Any) -> list[ToolMessage]:
    agent = create_agent(langchain_model(*turns), tools, name="coder", **options)
    state = agent.invoke({"messages": [("user", "go")]}, {"configurable": {"thread_id": "1"}})
    return [one for one in state["messages"] if isinstance(one, ToolMessage)]


def _helper(question: str) -> str:
    return str(interrupt(question))


def test_an_interrupt_is_found_before_the_run_and_resumed(session: Session) -> None:
    """Also in a helper of the tool."""

    @tool
    def asks(question: str) -> str:
        """Ask the user."""
        return f"{_helper(question)}, elsewhere: {inside()}"

    model = langchain_model([("asks", {"question": "sure?"})], "done")
    agent = create_agent(model, [asks], name="coder", checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    paused = agent.invoke({"messages": [("user", "go")]}, config)
    assert paused["__interrupt__"][0].value == "sure?"
    state = agent.invoke(Command(resume="yes"), config)
    assert state["messages"][-2].content == "yes, elsewhere: False"
    reasons = [str(record.reason) for record in session.records]
    assert [one.partition(" (")[0] for one in reasons] == ["unshippable: interrupt()"] * 2


def _configured() -> str:
    return str(get_config()["configurable"]["thread_id"])


def _stored() -> str:
    get_store().put(("a",), "b", {"c": 1})
    return "stored"


def _written() -> str:
    get_stream_writer()({"progress": 1})
    return "written"


def _run() -> str:
    return str(get_runtime().store is not None)


def _imported() -> str:
    from langgraph.config import get_config as renamed

    return str(renamed()["configurable"]["thread_id"])


@pytest.mark.parametrize(
    ("function", "told"),
    [(_configured, "1"), (_stored, "stored"), (_written, "written"), (_run, "True")],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_finds_the_graph_by_its_context_runs_inline(
    session: Session, function: Any, told: str
) -> None:
    live = StructuredTool.from_function(function, name="live", description="Live.")
    (message,) = _told([("live", {})], "done", tools=[live], store=InMemoryStore())
    assert message.content == told
    (record,) = session.records
    assert record.isolation == "inline"
    assert str(record.reason).startswith("unshippable: get_")


def test_an_import_in_the_body_is_seen_and_a_method_is_followed(session: Session) -> None:
    class Live(BaseTool):
        name: str = "live"
        description: str = "Live."

        def _run(self) -> str:
            return self._answer()

        def _answer(self) -> str:
            return _imported()

    (message,) = _told([("live", {})], "done", tools=[Live()])
    assert message.content == "1"


def test_a_call_that_nobody_sees_before_says_that_isolation_is_the_reason(
    session: Session,
) -> None:
    hidden = {"module": "langgraph.config", "name": "get_config"}

    @tool
    def hides() -> str:
        """Look it up at run time."""
        return str(getattr(importlib.import_module(hidden["module"]), hidden["name"])())

    with pytest.raises(RuntimeError, match=r"a worker process.* isolation = \"inline\""):
        _told([("hides", {})], "done", tools=[hides])


def test_without_on_unshippable_the_call_is_rejected_and_the_answer_names_the_reason(
    session: Session,
) -> None:
    def strict_asks() -> str:
        """Ask the user."""
        return str(interrupt("sure?"))

    (message,) = _told([("strict_asks", {})], "done", tools=[tool(strict_asks)])
    assert message.status == "error"
    assert "the configuration runs it in a process of its own" in message.content
    assert "interrupt() (langgraph.types.interrupt)" in message.content


def test_outside_of_a_graph_such_a_tool_is_sent_as_any_other(session: Session) -> None:
    """It would find no graph in the app either."""

    @tool
    def maybe() -> str:
        """Report progress if there is a graph."""
        try:
            get_stream_writer()("progress")
        except (KeyError, RuntimeError):  # as inline
            return f"no graph, elsewhere: {inside()}"
        return "a graph"

    assert maybe.invoke({}) == "no graph, elsewhere: True"


def test_custom_events_reach_their_handler(session: Session) -> None:
    class Ear(BaseCallbackHandler):
        heard: Any = None

        def on_custom_event(self, name: str, data: Any, **_kwargs: Any) -> None:
            self.heard = name, data

    @tool
    def dispatches(a: int) -> str:
        """Dispatch an event."""
        dispatch_custom_event("progress", a)
        return "done"

    ear = Ear()
    assert dispatches.invoke({"a": 1}, {"callbacks": [ear]}) == "done"
    assert ear.heard == ("progress", 1)


def test_a_store_and_a_stream_writer_are_the_apps(session: Session) -> None:
    """A `ToolRuntime` of which the body uses neither is sent."""

    @tool
    def stores(store: Annotated[Any, InjectedStore()]) -> str:
        """Store."""
        store.put(("a",), "b", {"c": 1})
        return f"elsewhere: {inside()}"

    @tool
    def writes(runtime: ToolRuntime) -> str:
        """Report progress."""
        runtime.stream_writer({"progress": 1})
        return f"elsewhere: {inside()}"

    @tool
    def reads(runtime: ToolRuntime) -> str:
        """Read the state."""
        return f"{len(runtime.state['messages'])} elsewhere: {inside()}"

    store = InMemoryStore()
    model = langchain_model([("stores", {}), ("writes", {}), ("reads", {})], "done")
    agent = create_agent(model, [stores, writes, reads], store=store)
    written, messages = [], []
    for mode, part in agent.stream(
        {"messages": [("user", "go")]}, stream_mode=["custom", "updates"]
    ):
        if mode == "custom":
            written.append(part)
        messages += [one for key in part if key == "tools" for one in part[key]["messages"]]
    told = {one.name: one.content for one in messages}
    assert told["stores"] == told["writes"] == "elsewhere: False"
    assert told["reads"] == "2 elsewhere: True"
    assert store.get(("a",), "b").value == {"c": 1}
    assert written == [{"progress": 1}]


def _tools(*tools: BaseTool) -> Any:
    """Return a graph whose first node calls each of the tools once; it goes on to no other node."""
    return StateGraph(MessagesState).add_node("tools", ToolNode(tools)).add_edge(START, "tools")


def _asked(*tools: BaseTool) -> dict[str, Any]:
    """Return the state of a graph whose model has called each of the tools."""
    calls = [{"type": "tool_call", "name": one.name, "args": {}, "id": one.name} for one in tools]
    return {"messages": [AIMessage("", tool_calls=calls)]}


def test_parts_of_results_are_streamed(session: Session) -> None:
    def emit(runtime: Any) -> str:
        runtime.emit_output_delta("part")
        return f"elsewhere: {inside()}"

    @tool
    def emits(runtime: ToolRuntime) -> str:
        """Stream a part of the result."""
        return emit(runtime)

    @tool
    async def aemits(runtime: ToolRuntime) -> str:
        """Stream a part of the result."""
        return emit(runtime)

    @tool
    def strict_emits(runtime: ToolRuntime) -> str:
        """Run where nothing is streamed."""
        return emit(runtime)

    async def run() -> list[dict[str, Any]]:
        used = [emits, aemits, strict_emits]
        stream = _tools(*used).compile().astream(_asked(*used), stream_mode="tools")
        return [part async for part in stream]

    parts = asyncio.run(run())
    said = {one["tool_call_id"]: one["output"].content for one in parts if "output" in one}
    here, elsewhere = "elsewhere: False", "elsewhere: True"
    assert said == {"emits": here, "aemits": here, "strict_emits": elsewhere}
    emitted = [(one["tool_call_id"], one["delta"]) for one in parts if "delta" in one]
    assert sorted(emitted) == [("aemits", "part"), ("emits", "part")]


def _handoff(name: str) -> Any:
    @tool(f"to_{name}")
    def transfer(
        state: Annotated[dict[str, Any], InjectedState],
        call_id: Annotated[str, InjectedToolCallId],
    ) -> Command[Any]:
        """Hand over."""
        message = ToolMessage(f"to {name}, elsewhere: {inside()}", tool_call_id=call_id)
        update = {"messages": [*state["messages"], message]}
        return Command(goto=[Send(name, update)], graph=Command.PARENT)

    return transfer


def test_two_handoffs_at_once_are_both_kept(session: Session) -> None:
    calls = [{"type": "tool_call", "name": f"to_{name}", "args": {}, "id": name} for name in "ab"]

    def answer(name: str) -> Any:
        def node(state: MessagesState) -> dict[str, Any]:
            return {"messages": [AIMessage(f"{name}: {state['messages'][-1].content}")]}

        return node

    inner = StateGraph(MessagesState)
    inner.add_node("model", lambda _: {"messages": [AIMessage("", tool_calls=calls)]})
    inner.add_node("tools", ToolNode([_handoff("a"), _handoff("b")]))
    inner.add_edge(START, "model")
    inner.add_edge("model", "tools")
    outer = StateGraph(MessagesState)
    outer.add_node("team", inner.compile())
    for name in "ab":
        outer.add_node(name, answer(name))
    outer.add_edge(START, "team")
    state = outer.compile().invoke({"messages": [("user", "go")]})
    said = {str(one.content) for one in state["messages"] if one.content}
    assert {"a: to a, elsewhere: True", "b: to b, elsewhere: True"} <= said


@pytest.mark.parametrize("name", ["strict_sync", "strict_async", "strict_deep"])
def test_a_graph_in_an_isolated_tool_hands_off_to_the_graph_of_the_tool(
    session: Session, name: str
) -> None:
    def leave(_: MessagesState) -> Command[Any]:
        update = {"messages": [AIMessage(f"left, elsewhere: {inside()}")]}
        return Command(goto="after", graph=Command.PARENT, update=update)

    inner = StateGraph(MessagesState).add_node("leave", leave).add_edge(START, "leave").compile()

    def sync() -> str:
        return str(inner.invoke({"messages": []}))

    async def awaited() -> str:
        return str(await inner.ainvoke({"messages": []}))

    def deep() -> str:
        once_more = StructuredTool.from_function(sync, name="once_more", description="Hand off.")
        between = _tools(once_more).add_node("after", leave).compile()
        return str(between.invoke(_asked(once_more)))

    func = {"strict_sync": sync, "strict_deep": deep}.get(name)
    coroutine = None if func else awaited
    hands_off = StructuredTool.from_function(func, coroutine, name=name, description="Hand off.")
    outer = _tools(hands_off).add_node("after", lambda _: {"messages": [AIMessage("after")]})
    state = asyncio.run(outer.compile().ainvoke(_asked(hands_off)))
    said = [one.content for one in state["messages"]]
    assert said == ["", "left, elsewhere: True", "after"]
    assert session.records[-1].isolation == "process"


class _State(TypedDict):
    text: str


def _graph() -> Any:
    graph = StateGraph(_State)
    graph.add_node("shout", lambda state: {"text": state["text"].upper() + str(inside())})
    graph.add_edge(START, "shout")
    return graph.compile()


@pytest.mark.parametrize(("name", "where"), [("strict_graph", True), ("graph", False)])
def test_a_compiled_graph_is_a_tool(session: Session, name: str, where: bool) -> None:
    """It runs inline where it may, so that the calls of its agents have records of their own."""
    shout = _graph().as_tool(name=name, description="Shout.")
    assert shout.invoke({"text": "a"}) == {"text": f"A{where}"}
    (record,) = session.records
    assert record.isolation == ("process" if where else "inline")


def test_an_agent_in_a_tool_has_calls_of_its_own(session: Session) -> None:
    @tool
    def inner() -> str:
        """Do the work."""
        return f"elsewhere: {inside()}"

    helper = create_agent(langchain_model([("inner", {})], "helped"), [inner], name="helper")

    @tool
    def delegates() -> str:
        """Ask the helper."""
        state = helper.invoke({"messages": [("user", "go")]})
        return str(state["messages"][-2].content)

    (message,) = _told([("delegates", {})], "done", tools=[delegates])
    assert message.content == "elsewhere: True"
    found = {record.tool: record.isolation for record in session.records}
    assert found == {"delegates": "inline", "inner": "process"}


def test_a_retry_of_the_framework_knows_the_exception(session: Session, tmp_path: Any) -> None:
    tries = tmp_path / "tries"

    @tool
    def flaky() -> str:
        """Fail once."""
        if tries.exists():
            return "in the end"
        tries.touch()
        request = httpx.Request("GET", "http://127.0.0.1/")
        response = httpx.Response(503, request=request)
        raise httpx.HTTPStatusError("503", request=request, response=response)

    def should_retry(error: Exception) -> bool:
        return isinstance(error, httpx.HTTPStatusError) and error.response.status_code == 503

    retry = ToolRetryMiddleware(max_retries=1, retry_on=should_retry, initial_delay=0)
    (message,) = _told([("flaky", {})], "done", tools=[flaky], middleware=[retry])
    assert message.content == "in the end"
    assert [record.isolation for record in session.records] == ["process"] * 2


def test_an_mcp_tool_of_a_connection_keeps_its_callbacks(session: Session) -> None:
    """Each call starts the server in its own cgroup; the client and its callbacks are the app's."""
    from langchain_mcp_adapters.callbacks import Callbacks
    from langchain_mcp_adapters.client import MultiServerMCPClient
    from mcp.types import ElicitResult

    heard: list[Any] = []

    async def on_progress(progress: float, total: float | None, *_: Any) -> None:
        heard.append(("progress", progress, total))

    async def on_log(params: Any, _context: Any) -> None:
        heard.append(("log", params.data))

    async def on_elicitation(_mcp: Any, params: Any, _context: Any) -> ElicitResult:
        heard.append(("asked", params.message))
        return ElicitResult(action="accept", content={"name": "me"})

    server = {"transport": "stdio", "command": sys.executable, "args": [SERVER]}
    client = MultiServerMCPClient(
        {"talks": server},
        callbacks=Callbacks(
            on_progress=on_progress, on_logging_message=on_log, on_elicitation=on_elicitation
        ),
    )

    async def run() -> Any:
        (talk,) = await client.get_tools()
        return await talk.ainvoke({"args": {}, "name": "talk", "id": "1", "type": "tool_call"})

    message = asyncio.run(run())
    assert message.content[0]["text"].startswith("hello me in ")
    assert set(heard) == {("progress", 1.0, 2.0), ("log", "working"), ("asked", "Who?")}
    (record,) = session.records
    assert (record.isolation, record.reason) == ("inline", None)
    assert str(message.content[0]["text"]).strip().endswith(str(record.cgroup).rpartition("/")[2])
