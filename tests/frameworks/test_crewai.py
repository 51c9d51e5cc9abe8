"""CrewAI's real classes, scripted models, real processes: identity, exactly once, answers."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from crewai import Agent, Crew, Task
from crewai.hooks import register_before_tool_call_hook, unregister_before_tool_call_hook
from crewai.tools import BaseTool, tool
from crewai.tools.structured_tool import ToolUsageLimitExceededError

import agentcgroup
from agentcgroup import Session
from agentcgroup.adapters.crewai import identity
from tests.support.processes import meeting
from tests.support.scripted import crewai_model

#: For the fixture `session`.
FRAMEWORK = "crewai"
RULES = [{"tool": "slow*", "timeout": "0.5s"}]

#: `ToolFailure` came with crewai 1.15.9.
HAS_FAILURES = importlib.util.find_spec("crewai.tools.tool_failure") is not None
#: The executor that was removed in 1.15.29 blocks the event loop while a native tool runs.
BLOCKS_THE_LOOP = importlib.util.find_spec("crewai.agents.agent_executor") is None

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:crewai")  # its own affair

both_ways = pytest.mark.parametrize("react", [False, True], ids=["native", "react"])


@pytest.fixture(autouse=True)
def lookups(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing here may look for a host."""
    looked_up: list[Any] = []

    def getaddrinfo(*args: Any, **kwargs: Any) -> Any:
        looked_up.append(args)
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield
    assert looked_up == []


def _run(command: str) -> str:
    return subprocess.run(command, shell=True, capture_output=True, text=True).stdout


@tool
def shell(command: str) -> str:
    """Run a command."""
    return _run(command)


@tool
def other_shell(command: str) -> str:
    """Run a command in the other shell."""
    return _run(command)


@tool
def slow_shell(command: str) -> str:
    """Run a command that takes long."""
    return _run(command)


@tool
def slow_strict(command: str) -> str:
    """Run a command and fail when it fails."""
    return subprocess.run(command, shell=True, capture_output=True, text=True, check=True).stdout


@tool
async def ashell(command: str) -> str:
    """Run a command."""
    process = await asyncio.create_subprocess_shell(command, stdout=subprocess.PIPE)
    output, _ = await process.communicate()
    return output.decode()


@tool
async def slow_wait(seconds: float) -> str:
    """Wait without a process."""
    await asyncio.sleep(seconds)
    return "waited"


@tool
def cgroup_of_child() -> str:
    """Say in which cgroup a child is born."""
    return _run("cat /proc/self/cgroup")


def _agent(model: Any, *tools: Any, role: str = "coder", **settings: Any) -> Agent:
    return Agent(role=role, goal="Go.", backstory="Old.", llm=model, tools=[*tools], **settings)


def _crew(*agents: Agent, **settings: Any) -> Crew:
    task = Task(description="Do it.", expected_output="Done.", agent=agents[0])
    return Crew(agents=[*agents], tasks=[task], **settings)


def _told(model: Any) -> str:
    """Return the texts that the model got in the last turn."""
    return "\n".join(str(message.get("content")) for message in model.seen[-1])


def _running(command: str) -> bool:
    return subprocess.run(["pgrep", "-f", f"^{command}"], capture_output=True).returncode == 0


@both_ways
def test_an_agents_calls_are_recorded_once_with_their_names(session: Session, react: bool) -> None:
    """Role, tool and (where the model gives one) tool_call_id come from CrewAI; a record a call."""
    model = crewai_model(
        [("shell", {"command": "echo one"})],
        [("shell", {"command": "echo two"})],
        "done",
        react=react,
    )
    assert _crew(_agent(model, shell)).kickoff().raw == "done"

    assert "two" in _told(model)
    assert [record.outcome for record in session.records] == ["ok", "ok"]
    assert {(record.agent, record.tool) for record in session.records} == {("coder", "shell")}
    assert len({record.cgroup for record in session.records}) == 2
    ids = [m.get("tool_call_id") for m in model.seen[-1] if m["role"] == "tool"]
    assert [record.tool_call_id for record in session.records] == (ids or [None, None])
    assert bool(ids) != react


@pytest.mark.skipif(
    importlib.util.find_spec("crewai.agents.step_executor") is None,
    reason="plans had no executor of their own",
)
def test_the_calls_of_a_plans_steps_are_recorded(session: Session) -> None:
    """An agent that plans runs its tools in another executor."""
    from crewai.agent.planning_config import PlanningConfig

    steps = [{"step_number": 1, "description": "Run it.", "tool_to_use": "shell"}]
    model = crewai_model(
        json.dumps({"plan": "Run it.", "steps": steps, "ready": True}),
        [("shell", {"command": "echo planned"})],
        "The step is done.",
        "done",
    )
    agent = _agent(model, shell, planning_config=PlanningConfig(reasoning_effort="low"))
    _crew(agent).kickoff()
    (record,) = session.records
    assert (record.agent, record.tool, record.outcome) == ("coder", "shell", "ok")
    assert record.tool_call_id is not None
    assert any("planned" in str(message) for sent in model.seen for message in sent)


def test_parallel_calls_have_their_own_ids_and_cgroups(session: Session, tmp_path: Path) -> None:
    """Two calls of one turn run at once, in threads, and are not mixed up."""
    calls = [(name, {"command": meet}) for name, meet in meeting("shell", "other_shell", tmp_path)]
    model = crewai_model(calls, "done")
    _crew(_agent(model, shell, other_shell)).kickoff()

    first, second = sorted(session.records, key=lambda record: record.started_at)
    assert second.started_at < first.started_at + first.duration_s
    asked = {m["tool_call_id"]: m["name"] for m in model.seen[-1] if m["role"] == "tool"}
    assert {r.tool_call_id: r.tool for r in session.records} == asked
    assert {record.agent for record in session.records} == {"coder"}
    assert first.cgroup != second.cgroup


@both_ways
def test_children_are_born_in_the_calls_cgroup(session: Session, react: bool) -> None:
    """The child ran in the cgroup of the record, and the model got its output."""
    model = crewai_model([("cgroup_of_child", {})], "done", react=react)
    _crew(_agent(model, cgroup_of_child)).kickoff()
    (record,) = session.records
    assert record.cgroup is not None
    assert record.cgroup.rpartition("/agentcgroup")[2] in _told(model)


@both_ways
def test_an_async_tool_is_contained(session: Session, react: bool) -> None:
    """CrewAI runs it by `asyncio.run` in its sync loop; direct `arun` awaits it."""
    model = crewai_model([("ashell", {"command": "cat /proc/self/cgroup"})], "done", react=react)
    _crew(_agent(model, ashell)).kickoff()
    assert asyncio.run(ashell.arun(command="echo direct")) == "direct\n"
    first, second = session.records
    assert first.cgroup is not None
    assert first.cgroup.rpartition("/agentcgroup")[2] in _told(model)
    assert (first.agent, second.agent, second.outcome) == ("coder", None, "ok")


@both_ways
@pytest.mark.parametrize("one", [slow_shell, slow_strict], ids=["hides", "raises"])
def test_a_timeout_is_told_once_and_runs_once(session: Session, react: bool, one: Any) -> None:
    """The process tree ends, the tool does not run again, the model gets one sentence more."""
    command = "sleep 177 & setsid sleep 177; echo never; exit 3"
    model = crewai_model([(one.name, {"command": command})], "went on", react=react)
    began = time.monotonic()
    output = _crew(_agent(model, one)).kickoff()

    assert output.raw == "went on"
    assert time.monotonic() - began < 50
    assert [record.outcome for record in session.records] == ["timeout"]
    assert _told(model).count("time limit of 500ms (timeout)") == 1
    assert not _running("sleep 177")
    if HAS_FAILURES:
        (failure,) = output.tasks_output[0].tool_failures
        assert failure.failure.code == "timeout"
        assert failure.failure.retryable is False


@both_ways
def test_a_timeout_ends_an_async_tool_that_only_waits(session: Session, react: bool) -> None:
    """Without a process, in a loop that CrewAI made, the timeout cancels the coroutine."""
    model = crewai_model([("slow_wait", {"seconds": 60})], "went on", react=react)
    began = time.monotonic()
    assert _crew(_agent(model, slow_wait)).kickoff().raw == "went on"
    assert time.monotonic() - began < 50
    assert _told(model).count("time limit of 500ms (timeout)") == 1
    assert [record.outcome for record in session.records] == ["timeout"]


def test_an_event_loop_in_a_tool_is_as_it_was(session: Session) -> None:
    """A coroutine that a tool runs by `asyncio.run` has its own result or exception."""

    async def double(number: int) -> int:
        if number < 0:
            raise ValueError("negative")
        return 2 * number

    @tool
    def loops(number: int) -> int:
        """Use a loop."""
        return asyncio.run(double(number))

    @tool
    async def nests(number: int) -> int:
        """Use a loop in a loop."""
        coroutine = double(number)
        try:
            return asyncio.run(coroutine)
        finally:
            coroutine.close()

    assert loops.run(number=2) == 4
    with pytest.raises(ValueError, match="negative"):
        loops.run(number=-2)
    with pytest.raises(RuntimeError, match="running event loop"):
        nests.run(number=2)
    assert [record.outcome for record in session.records] == ["ok", "error", "error"]


def test_a_timeout_ends_an_awaited_tool_that_only_waits(session: Session) -> None:
    """Without a process the timeout cancels the coroutine, and the answer is returned."""
    began = time.monotonic()
    answer = asyncio.run(slow_wait.arun(seconds=60))
    assert time.monotonic() - began < 50
    assert "time limit" in str(getattr(answer, "message", answer))
    assert session.records[-1].outcome == "timeout"


@both_ways
def test_a_background_process_is_ended_and_told(session: Session, react: bool) -> None:
    """Processes that the tool left running end with the call; the result has a note."""
    model = crewai_model(
        [("shell", {"command": "sleep 179 >/dev/null 2>&1 & echo started"})], "done", react=react
    )
    output = _crew(_agent(model, shell)).kickoff()
    assert "started" in _told(model)
    assert "left running in the background were ended" in _told(model)
    assert session.records[-1].reason == "leftovers"
    assert not _running("sleep 179")
    if HAS_FAILURES:
        assert output.tasks_output[0].tool_failures == []


@both_ways
def test_the_cache_keeps_no_answer_of_ours(session: Session, react: bool) -> None:
    """The same call again runs again when a limit ended it, and when its processes were ended."""
    slow = [("slow_shell", {"command": "sleep 60"})]
    leaves = [("shell", {"command": "sleep 179 >/dev/null 2>&1 & echo started"})]
    good = [("other_shell", {"command": "echo good"})]
    better = [("other_shell", {"command": "echo better"})]  # ReAct runs nothing twice in a row
    turns = [slow, good, slow, leaves, good, better, leaves]
    model = crewai_model(*turns, "done", react=react)
    _crew(_agent(model, slow_shell, shell, other_shell), cache=True).kickoff()
    ran = [(record.tool, record.reason) for record in session.records]
    assert ran.count(("slow_shell", "timeout")) == 2
    assert ran.count(("shell", "leftovers")) == 2
    assert ran.count(("other_shell", None)) == 2  # and not 3: the cache is on


def test_a_limited_call_is_used_once(session: Session) -> None:
    """Usage counts are as without us, and CrewAI's own refusal passes as it is."""

    @tool(max_usage_count=2)
    def slow_counted() -> str:
        """Take long."""
        return _run("sleep 60")

    assert "time limit" in str(getattr(slow_counted.run(), "message", "time limit"))
    assert slow_counted.current_usage_count == 1
    structured = slow_counted.to_structured_tool()
    structured.invoke({})
    assert slow_counted.current_usage_count == 2
    with pytest.raises(ToolUsageLimitExceededError):
        structured.invoke({})
    assert [record.outcome for record in session.records] == ["timeout", "timeout", "error"]
    if HAS_FAILURES:  # before, `run` counted and refused nothing by itself
        assert "usage limit of 2" in slow_counted.run().message


def test_the_tools_own_exception_is_the_frameworks_affair(session: Session) -> None:
    """Without a limit CrewAI handles an exception itself: native reports it, ReAct tries again."""
    ran = []

    @tool
    def fails() -> str:
        """Fail."""
        ran.append(1)
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        fails.run()
    native = crewai_model([("fails", {})], "done")
    _crew(_agent(native, fails)).kickoff()
    assert "Error executing tool: mine" in _told(native)
    assert len(ran) == 2
    react = crewai_model([("fails", {})], "done", react=True)
    _crew(_agent(react, fails)).kickoff()
    assert "mine" in _told(react)
    assert [record.outcome for record in session.records] == ["error"] * len(ran)


def test_control_flow_passes_untouched(session: Session) -> None:
    """Exceptions by which CrewAI stops a crew pass, even when a limit was met."""

    @tool
    def slow_stop() -> str:
        """Take long and then stop the crew."""
        _run("sleep 60")
        raise ToolUsageLimitExceededError("enough")

    with pytest.raises(ToolUsageLimitExceededError):
        slow_stop.run()
    assert session.records[-1].outcome == "timeout"


@pytest.mark.skipif(not HAS_FAILURES, reason="tool_failure_policy came with crewai 1.15.9")
def test_the_users_policy_for_failures_holds(session: Session) -> None:
    """With tool_failure_policy="raise" a limit aborts the crew, as asked."""
    from crewai.tools.tool_failure import ToolExecutionFailedError

    model = crewai_model([("slow_shell", {"command": "sleep 60"})], "never")
    with pytest.raises(ToolExecutionFailedError, match="time limit"):
        _crew(_agent(model, slow_shell, tool_failure_policy="raise")).kickoff()


def test_a_result_that_is_no_text_is_told_in_words(session: Session) -> None:
    """The answer for an object that hides a kill is its text and the sentence."""

    @tool
    def slow_object() -> dict[str, int]:
        """Take long."""
        return {"status": subprocess.run(["sleep", "60"]).returncode}

    told = slow_object.run()
    text = getattr(told, "message", told)
    assert text.startswith("{'status': -9}")
    assert "time limit" in text


@pytest.mark.parametrize(
    ("way", "react"),
    [("akickoff", False), ("akickoff", True), ("kickoff_async", False), ("kickoff_async", True)],
)
def test_cancelling_a_crew_leaves_no_process(
    session: Session, tmp_path: Path, way: str, react: bool
) -> None:
    """The tool's processes end, and its thread, which goes on, can start no other."""
    if BLOCKS_THE_LOOP and (way, react) == ("akickoff", False):
        pytest.skip("this version cannot be cancelled while a tool runs")
    witness = tmp_path / "witness"
    model = crewai_model(
        [("shell", {"command": "sleep 178"})],
        [("shell", {"command": f"touch {witness}"})],
        "never",
        react=react,
    )

    async def main() -> None:
        task = asyncio.create_task(getattr(_crew(_agent(model, shell)), way)())
        while not _running("sleep 178"):
            await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())  # also waits for the threads
    assert session.records[0].outcome == "cancelled"
    assert not _running("sleep 178")
    assert not witness.exists()


def test_cancelling_an_agent_leaves_no_process(session: Session) -> None:
    """The same for an agent without a crew."""
    model = crewai_model([("shell", {"command": "sleep 178"})], "never")

    async def main() -> None:
        task = asyncio.create_task(_agent(model, shell).kickoff_async("Go."))
        while not _running("sleep 178"):
            await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert [record.outcome for record in session.records] == ["cancelled"]
    assert not _running("sleep 178")


@both_ways
def test_a_coworkers_calls_are_inside_the_delegation(session: Session, react: bool) -> None:
    """Records name the parent and both agents, and the cgroups nest as the calls do."""
    worker = crewai_model([("shell", {"command": "true"})], "worked", react=react)
    work = {"task": "Work.", "context": "None.", "coworker": "worker"}
    boss = crewai_model([("delegate_work_to_coworker", work)], "done", react=react)
    crew = _crew(
        _agent(boss, role="boss", allow_delegation=True), _agent(worker, shell, role="worker")
    )
    assert crew.kickoff().raw == "done"
    assert "worked" in _told(boss)
    inner, outer = session.records
    assert (inner.agent, inner.tool) == ("worker", "shell")
    assert (outer.agent, outer.tool) == ("boss", "Delegate work to coworker")
    assert inner.parent_id == outer.id
    assert inner.cgroup is not None
    assert outer.cgroup is not None
    assert inner.cgroup.startswith(outer.cgroup + "/")
    assert (inner.tool_call_id == outer.tool_call_id) == react


def test_an_mcp_server_is_born_in_the_call(session: Session, tmp_path: Path) -> None:
    """CrewAI starts a stdio server for each call of one of its tools."""
    from crewai.mcp import MCPServerStdio

    server = tmp_path / "server.py"
    server.write_text(
        "from mcp.server.fastmcp import FastMCP\n"
        "server = FastMCP('test')\n"
        "@server.tool()\n"
        "def where() -> str:\n"
        "    'Say in which cgroup the server runs.'\n"
        "    return open('/proc/self/cgroup').read()\n"
        "server.run()\n"
    )
    model = crewai_model(lambda offered: [(offered[0], {})], "done")
    mcps = [MCPServerStdio(command=sys.executable, args=[str(server)])]
    _crew(_agent(model, mcps=mcps)).kickoff()
    record = session.records[-1]
    assert (record.agent, record.outcome) == ("coder", "ok")
    assert record.cgroup is not None
    assert record.cgroup.rpartition("/agentcgroup")[2] in _told(model)


def test_an_arun_that_calls_run_is_one_call(session: Session) -> None:
    """Both wrappers run for the same call; the inner one passes through."""

    class Both(BaseTool):
        name: str = "both"
        description: str = "Both."

        def _run(self) -> str:
            return "once"

        async def _arun(self) -> str:
            return str(self.run())

    assert asyncio.run(Both().arun()) == "once"
    assert len(session.records) == 1


def test_what_a_tool_calls_itself_is_a_call_of_its_agent(session: Session) -> None:
    """A tool used by another's body is a call inside, of the same agent, without an id."""

    @tool
    def uses() -> str:
        """Use another tool."""
        return str(shell.run(command="echo inner"))

    model = crewai_model([("uses", {})], "done")
    _crew(_agent(model, uses)).kickoff()
    shell.run(command="echo outside")
    inner, outer, outside = session.records
    assert (inner.agent, inner.tool_call_id, inner.parent_id) == ("coder", None, outer.id)
    assert outer.tool_call_id is not None
    assert (outside.agent, outside.tool_call_id, outside.parent_id) == (None, None, None)


def test_a_role_is_prose_and_gets_nowhere(session: Session) -> None:
    """Hostile roles stay whole in the record and name no path."""
    role = "../../../tmp\nSenior 'Analyst' $(reboot) \x00 " + "very " * 100 + "wise\n"
    model = crewai_model([("shell", {"command": "true"})], "done")
    _crew(_agent(model, shell, role=role)).kickoff()
    (record,) = session.records
    assert (record.agent, record.outcome) == (role.strip(), "ok")
    assert record.cgroup is not None
    assert ".." not in record.cgroup
    assert "\n" not in record.cgroup


def test_a_users_hook_still_blocks(session: Session) -> None:
    """A call that a before_tool_call hook refuses never opens."""

    def refuse(context: Any) -> bool:
        return False

    register_before_tool_call_hook(refuse)
    try:
        model = crewai_model([("shell", {"command": "echo ran"})], "done")
        _crew(_agent(model, shell)).kickoff()
    finally:
        unregister_before_tool_call_hook(refuse)
    assert "blocked by hook" in _told(model)
    assert session.records == ()


@both_ways
def test_a_fault_in_the_identity_layer_changes_no_result(
    session: Session, monkeypatch: pytest.MonkeyPatch, react: bool
) -> None:
    """A call whose identity cannot be read is contained, with the same result."""

    class Broken(BaseTool):
        name: str = "broken"
        description: str = "Broken."

        def __getattribute__(self, attribute: str) -> Any:
            if attribute == "name" and sys._getframe(1).f_code.co_name == "identify":
                raise RuntimeError("no name today")
            return super().__getattribute__(attribute)

        def _run(self) -> str:
            return _run("echo fine")

    def fault(*_: Any) -> Any:
        raise RuntimeError("no names today")

    monkeypatch.setattr(identity, "_role", fault)
    monkeypatch.setattr("crewai.utilities.agent_utils.extract_tool_call_info", fault)
    model = crewai_model([("broken", {})], "done", react=react)
    assert _crew(_agent(model, Broken())).kickoff().raw == "done"
    assert "fine" in _told(model)
    (record,) = session.records
    assert (record.outcome, record.agent, record.tool_call_id) == ("ok", None, None)
    assert record.cgroup is not None


def test_unregistered_hooks_are_inert() -> None:
    """After unregister the same crew runs uncontained, and leaves no record."""
    session = agentcgroup.register("crewai")
    agentcgroup.unregister()
    model = crewai_model([("shell", {"command": "echo free"})], "done")
    _crew(_agent(model, shell)).kickoff()
    assert "free" in _told(model)
    assert asyncio.run(ashell.arun(command="echo free")) == "free\n"
    assert session.records == ()


def test_registering_imports_no_framework() -> None:
    """The hooks are set when crewai is imported later, and nothing is missing."""
    code = (
        "import sys, agentcgroup\n"
        "session = agentcgroup.register('crewai')\n"
        "assert 'crewai' not in sys.modules\n"
        "from crewai.tools import tool\n"
        "@tool\n"
        "def add(a: int) -> int:\n"
        "    'Add.'\n"
        "    return a + 1\n"
        "assert add.run(a=1) == 2\n"
        "print(len(session.records))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "1"
    assert "missing" not in done.stderr
