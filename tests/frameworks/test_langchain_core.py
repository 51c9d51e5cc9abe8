"""The tools of langchain-core by themselves: what the oldest version that is supported can do."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator

import agentcgroup
import pytest
from agentcgroup import Session
from langchain_core.messages import ToolMessage
from langchain_core.tools import tool


@pytest.fixture
def session() -> Iterator[Session]:
    yield agentcgroup.register("langchain", config={"limits": {"call": {"timeout": "0.5s"}}})
    agentcgroup.unregister()


@tool
def shell(command: str) -> str:
    """Run a command."""
    return subprocess.run(command, shell=True, capture_output=True, text=True).stdout


@tool
async def wait(seconds: float) -> str:
    """Wait without a process."""
    await asyncio.sleep(seconds)
    return "waited"


def test_every_way_to_a_tool_is_one_call(session: Session) -> None:
    """Invoked, awaited, in a batch and run: one record each, contained."""
    shown = shell.invoke({"command": "cat /proc/self/cgroup"})
    asyncio.run(shell.ainvoke({"command": "true"}))
    shell.batch([{"command": "true"}, {"command": "true"}])
    shell.run({"command": "true"})
    first, *_ = session.records
    assert [record.outcome for record in session.records] == ["ok"] * 5
    assert first.cgroup is not None
    assert first.cgroup.rpartition("/agentcgroup")[2] in shown


@pytest.mark.parametrize("awaited", [False, True], ids=["sync", "async"])
def test_a_timeout_is_an_error_message(session: Session, awaited: bool) -> None:
    """For a call with an id the model is given a ToolMessage, and no process is left."""
    arguments = {"seconds": 600} if awaited else {"command": "sleep 601"}
    name = "wait" if awaited else "shell"
    call = {"type": "tool_call", "name": name, "args": arguments, "id": "id-1"}
    message = asyncio.run(wait.ainvoke(call)) if awaited else shell.invoke(call)
    assert isinstance(message, ToolMessage)
    assert (message.status, message.tool_call_id) == ("error", "id-1")
    assert "time limit of 500ms (timeout)" in message.content
    assert [record.outcome for record in session.records] == ["timeout"]
    assert subprocess.run(["pgrep", "-f", "^sleep 601"], capture_output=True).returncode == 1
