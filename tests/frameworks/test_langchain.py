"""LangChain's tools and LangGraph's nodes, with real processes: exactly once, and the answers.

All that langchain-core has had since 0.3; agents, which are newer, are in test_langchain_agents.py.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from typing import Any

import langgraph.types
import pytest
from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool, StructuredTool, ToolException, tool
from langgraph.errors import GraphInterrupt
from langgraph.prebuilt import ToolNode

import agentcgroup
from agentcgroup import Session
from tests.support.scripted import langchain_model

#: For the fixture `session`.
FRAMEWORK = "langchain"
RULES = [{"tool": "slow*", "timeout": "0.5s"}]

#: Marks the sleeps of these tests among all others on this machine.
_PID = os.getpid()


@tool
def shell(command: str) -> str:
    """Run a command."""
    return subprocess.run(command, shell=True, capture_output=True, text=True).stdout


@tool
def slow_shell(command: str) -> str:
    """Run a command that takes long."""
    return subprocess.run(command, shell=True, capture_output=True, text=True).stdout


@tool
def cgroup_of_child() -> str:
    """Say in which cgroup a child is born."""
    return subprocess.check_output(["cat", "/proc/self/cgroup"], text=True)


def _call(name: str, arguments: dict[str, Any], call_id: str = "id-1") -> dict[str, Any]:
    return {"type": "tool_call", "name": name, "args": arguments, "id": call_id}


def test_children_are_born_in_the_calls_cgroup(session: Session) -> None:
    """The child ran in the cgroup of the record."""
    inside = cgroup_of_child.invoke({})
    (record,) = session.records
    assert record.cgroup is not None
    unified = [line for line in inside.splitlines() if line.startswith("0::")]
    assert record.cgroup.endswith(unified[0].removeprefix("0::"))


def test_a_tool_without_a_process_makes_no_cgroup(session: Session) -> None:
    """An inline tool costs no cgroup; its record has no figures, not zeros."""

    @tool
    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    assert add.invoke({"a": 1, "b": 2}) == 3
    (record,) = session.records
    assert (record.outcome, record.cgroup, record.cpu_usage_s) == ("ok", None, None)


def test_a_timeout_ends_the_tree_and_is_told(session: Session) -> None:
    """The tool's own wait returns, grandchildren are gone, the model gets one error message."""
    began = time.monotonic()
    message = slow_shell.invoke(
        _call("slow_shell", {"command": f"sleep 77.{_PID} & setsid sleep 77.{_PID}; :"})
    )

    assert time.monotonic() - began < 50
    assert isinstance(message, ToolMessage)
    assert message.status == "error"
    assert "time limit of 500ms (timeout)" in message.content
    assert session.records[-1].outcome == "timeout"
    assert subprocess.run(["pgrep", "-f", f"sleep 77.{_PID}"], capture_output=True).returncode == 1


def test_no_process_can_start_in_a_call_whose_time_is_over(session: Session) -> None:
    """A tool that loops over commands ends at the first one after its deadline."""

    @tool
    def slow_loop() -> str:
        """Start one process after the other."""
        for _ in range(1000):
            subprocess.run(["sleep", "0.1"])
        return "never"

    message = slow_loop.invoke(_call("slow_loop", {}))
    assert message.status == "error"
    assert session.records[-1].outcome == "timeout"


def test_a_background_process_is_ended_and_told(session: Session) -> None:
    """Processes that the tool left running end with the call, and the answer mentions it."""
    message = shell.invoke(
        _call("shell", {"command": f"sleep 79.{_PID} >/dev/null 2>&1 & echo started"})
    )
    assert message.content.startswith("started")
    assert "left running in the background were ended" in message.content
    assert message.status == "success"
    assert session.records[-1].reason == "leftovers"
    assert subprocess.run(["pgrep", "-f", f"sleep 79.{_PID}"], capture_output=True).returncode == 1


def test_the_tools_own_exception_is_the_frameworks_affair(session: Session) -> None:
    """Without a limit an exception passes as it came, and ToolException is handled as ever."""

    @tool
    def fails() -> str:
        """Fail."""
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        fails.invoke({})

    def says() -> str:
        raise ToolException("told")

    handled = StructuredTool.from_function(
        says, name="says", description="Say.", handle_tool_error=True
    )
    assert handled.invoke({}) == "told"
    assert [record.outcome for record in session.records] == ["error", "ok"]


def test_interrupts_pass_untouched(session: Session) -> None:
    """Control flow of LangGraph is no error of a tool, even when a limit was met."""

    @tool
    def slow_interrupt() -> str:
        """Interrupt the graph."""
        subprocess.run(["sleep", "60"])
        raise GraphInterrupt(())

    with pytest.raises(GraphInterrupt):
        slow_interrupt.invoke(_call("slow_interrupt", {}))


@pytest.mark.skipif(
    not hasattr(langgraph.types, "Command"), reason="LangGraph before 0.2.58 has no commands"
)
def test_commands_pass_untouched(session: Session) -> None:
    """The graph gets the same command object that the tool returned."""
    command = langgraph.types.Command(update={})

    @tool
    def hands_over() -> Any:
        """Return a command."""
        return command

    assert hands_over.invoke({}) is command


def test_an_arun_that_calls_run_is_one_call(session: Session) -> None:
    """Both wrappers run for the same call; the inner one passes through."""

    class Both(BaseTool):
        name: str = "both"
        description: str = "Both."

        def _run(self) -> str:
            return "once"

        async def _arun(self) -> Any:
            return self.run({})

    assert asyncio.run(Both().ainvoke({})) == "once"
    assert len(session.records) == 1


def test_tool_node_and_batch_and_classic_run(session: Session) -> None:
    """Every way to a tool is one record: ToolNode, batch, run."""
    node = ToolNode([shell])
    message = langchain_model([("shell", {"command": "echo node"})]).invoke("x")
    from langgraph.graph import END, START, MessagesState, StateGraph

    graph = StateGraph(MessagesState)
    graph.add_node("tools", node)
    graph.add_edge(START, "tools")
    graph.add_edge("tools", END)
    graph.compile().invoke({"messages": [message]})
    shell.batch([{"command": "echo 1"}, {"command": "echo 2"}])
    shell.run({"command": "echo 3"})
    assert len(session.records) == 4


def test_unregistered_hooks_are_inert() -> None:
    """After unregister the same tools run uncontained, and leave no record."""
    session = agentcgroup.register("langchain")
    agentcgroup.unregister()
    assert shell.invoke({"command": "echo free"}) == "free\n"
    assert session.records == ()


def test_a_fault_in_the_identity_layer_changes_no_result(session: Session) -> None:
    """A tool whose name cannot be read is contained, with the same result."""

    class Broken(BaseTool):
        name: str = "broken"
        description: str = "Broken."

        def __getattribute__(self, attribute: str) -> Any:
            if attribute == "name" and sys._getframe(1).f_code.co_name == "identify":
                raise RuntimeError("no name today")
            return super().__getattribute__(attribute)

        def _run(self) -> str:
            return "fine"

    assert Broken().invoke({}) == "fine"
    assert [record.tool for record in session.records] == ["Broken"]
