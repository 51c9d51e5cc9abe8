"""Agents of LangChain 1 and deepagents, scripted models, real processes: identity and answers."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
import time
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ToolRetryMiddleware
from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool, tool

from agentcgroup import LimitExceeded, Session
from tests.support.processes import SOON, running, until
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
async def slow_wait(seconds: float) -> str:
    """Wait without a process."""
    await asyncio.sleep(seconds)
    return "waited"


def test_an_agents_calls_are_recorded_once_with_their_names(session: Session) -> None:
    """create_agent: agent, tool and tool_call_id come from the framework, one record a call."""
    model = langchain_model(
        [("shell", {"command": "echo one"}), ("shell", {"command": "echo two"})], "done"
    )
    agent = create_agent(model, [shell], name="coder")
    answer = agent.invoke({"messages": [("user", "go")]})

    assert answer["messages"][-1].content == "done"
    assert [record.outcome for record in session.records] == ["ok", "ok"]
    asked = [call["id"] for call in answer["messages"][1].tool_calls]
    assert sorted(record.tool_call_id or "" for record in session.records) == sorted(asked)
    assert {record.agent for record in session.records} == {"coder"}
    assert {record.tool for record in session.records} == {"shell"}
    assert len({record.cgroup for record in session.records}) == 2


def test_an_agents_calls_are_recorded_once_when_async(session: Session) -> None:
    """The same through ainvoke, where sync tools run in threads."""
    model = langchain_model(
        [("shell", {"command": "echo one"}), ("shell", {"command": "id"})], "ok"
    )
    agent = create_agent(model, [shell], name="coder")
    answer = asyncio.run(agent.ainvoke({"messages": [("user", "go")]}))

    assert answer["messages"][-1].content == "ok"
    assert [record.outcome for record in session.records] == ["ok", "ok"]
    assert {record.agent for record in session.records} == {"coder"}


def test_a_timeout_ends_an_async_tool_that_only_waits(session: Session) -> None:
    """Without a process the timeout cancels the coroutine, and the agent goes on."""
    model = langchain_model([("slow_wait", {"seconds": 60})], "went on")
    agent = create_agent(model, [slow_wait])
    began = time.monotonic()
    answer = asyncio.run(agent.ainvoke({"messages": [("user", "go")]}))

    assert time.monotonic() - began < 50
    assert answer["messages"][-1].content == "went on"
    assert "time limit" in answer["messages"][-2].content
    assert session.records[-1].outcome == "timeout"


def test_cancelling_the_agent_leaves_no_process(session: Session) -> None:
    """A task cancelled while a sync tool waits in a thread, and while an async one waits."""

    @tool
    async def ashell(command: str) -> str:
        """Run a command."""
        process = await asyncio.create_subprocess_shell(command)
        return str(await process.wait())

    async def main() -> None:
        for one in (shell, ashell):
            model = langchain_model([(one.name, {"command": f"sleep 78.{_PID}"})], "never")
            task = asyncio.create_task(
                create_agent(model, [one]).ainvoke({"messages": [("user", "go")]})
            )
            while not running("sleep", f"78.{_PID}"):
                await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    assert [record.outcome for record in session.records] == ["cancelled", "cancelled"]
    assert subprocess.run(["pgrep", "-f", f"sleep 78.{_PID}"], capture_output=True).returncode == 1


def test_a_thread_of_a_cancelled_tool_starts_nothing_more(session: Session, tmp_path: Any) -> None:
    """A thread cannot be stopped: once its process is killed it goes on with its next command."""
    refused: list[LimitExceeded] = []
    removed, done = threading.Event(), threading.Event()

    class Steps(BaseTool):
        name: str = "steps"
        description: str = "Run two commands."

        def _run(self) -> str:
            subprocess.run(["sleep", f"80.{_PID}"])
            for _ in range(2):
                try:
                    subprocess.run(["touch", tmp_path / "later"])
                except LimitExceeded as error:
                    refused.append(error)
                removed.wait(SOON)
            done.set()
            return "never"

    async def main() -> None:
        task = asyncio.create_task(Steps().ainvoke({}))
        while not running("sleep", f"80.{_PID}"):
            await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    threading.Thread(target=asyncio.run, args=(main(),)).start()
    assert until(lambda: len(session.records) == 1)
    removed.set()
    assert done.wait(SOON)
    assert len(refused) == 2
    assert not (tmp_path / "later").exists()
    assert [record.outcome for record in session.records] == ["cancelled"]


def test_cancelling_what_has_just_ended_leaves_no_process(session: Session) -> None:
    """The tool has returned, and its background process is given a moment to end by itself."""

    @tool
    async def leave() -> str:
        """Leave a process behind."""
        subprocess.Popen(["sleep", f"79.{_PID}"])
        asyncio.get_running_loop().call_later(0.01, lambda: task.cancel())
        return "left"

    async def main() -> None:
        nonlocal task
        task = asyncio.create_task(leave.ainvoke({}))
        with pytest.raises(asyncio.CancelledError):
            await task

    task: asyncio.Task[Any]
    asyncio.run(main())
    assert [record.outcome for record in session.records] == ["cancelled"]
    assert not running("sleep", f"79.{_PID}")


def test_each_attempt_of_a_retry_is_a_call(session: Session) -> None:
    """ToolRetryMiddleware uses one tool_call_id for all attempts; each has its own record."""
    attempts = []

    @tool
    def flaky() -> str:
        """Fail once."""
        attempts.append(1)
        if len(attempts) == 1:
            raise OSError("not yet")
        return "now"

    model = langchain_model([("flaky", {})], "done")
    agent = create_agent(
        model, [flaky], middleware=[ToolRetryMiddleware(max_retries=2, initial_delay=0)]
    )
    agent.invoke({"messages": [("user", "go")]})
    assert [record.outcome for record in session.records] == ["error", "ok"]
    assert len({record.tool_call_id for record in session.records}) == 1
    assert len({record.id for record in session.records}) == 2


def test_a_nested_agent_is_inside_the_call_that_runs_it(session: Session) -> None:
    """Records name the parent, and the cgroups nest as the calls do."""
    inner = create_agent(
        langchain_model([("shell", {"command": "true"})], "inner"), [shell], name="in"
    )

    @tool
    def delegate() -> str:
        """Ask another agent."""
        subprocess.run(["true"])
        answer = inner.invoke({"messages": [("user", "go")]})
        subprocess.run(["true"])
        return str(answer["messages"][-1].content)

    outer = create_agent(langchain_model([("delegate", {})], "outer"), [delegate], name="out")
    outer.invoke({"messages": [("user", "go")]})
    first, second = session.records
    assert (first.tool, first.agent, second.tool, second.agent) == (
        "shell",
        "in",
        "delegate",
        "out",
    )
    assert first.parent_id == second.id
    assert first.cgroup is not None
    assert second.cgroup is not None
    assert first.cgroup.startswith(second.cgroup + "/")


def test_a_nested_agent_starts_nothing_when_the_time_around_it_is_over(
    session: Session, tmp_path: Any
) -> None:
    """The tool is in a thread, which cannot be stopped, and its own calls have time left."""
    later = tmp_path / "later"

    @tool
    def slow_helper(task: str) -> str:
        """Let another agent do it."""
        inner = langchain_model(
            [("shell", {"command": "sleep 60"})],
            [("shell", {"command": f"touch {later}"})],
            "never",
        )
        create_agent(inner, [shell]).invoke({"messages": [("user", task)]})
        return "never"

    told = slow_helper.invoke({"task": "go"})
    assert "time limit" in told
    assert not later.exists()
    outcomes = [(record.tool, record.outcome) for record in session.records]
    assert sorted(outcomes) == [
        ("shell", "cancelled"),
        ("shell", "cancelled"),
        ("slow_helper", "timeout"),
    ]


def test_deepagents_execute_is_contained(session: Session, tmp_path: Any) -> None:
    """Deepagents runs a shell command for its agents; the sub-shell is born in the call."""
    from deepagents import create_deep_agent
    from deepagents.backends import LocalShellBackend

    model = langchain_model([("execute", {"command": "cat /proc/self/cgroup"})], "done")
    agent = create_deep_agent(model=model, backend=LocalShellBackend(root_dir=str(tmp_path)))
    answer = agent.invoke({"messages": [("user", "go")]})
    (record,) = [record for record in session.records if record.tool == "execute"]
    text = next(m.content for m in answer["messages"] if isinstance(m, ToolMessage))
    assert record.cgroup is not None
    assert record.cgroup.rpartition("/agentcgroup/")[2] in text
