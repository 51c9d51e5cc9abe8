"""AutoGen's real classes, scripted models, real processes: identity, exactly once, answers."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

import autogen_agentchat.agents
import autogen_core.tools
import pytest
from autogen_agentchat.agents import AssistantAgent, CodeExecutorAgent
from autogen_agentchat.base import Handoff
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.messages import TextMessage, ToolCallExecutionEvent
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_agentchat.tools import AgentTool, TeamTool
from autogen_core import CancellationToken
from autogen_core.models import FunctionExecutionResult, FunctionExecutionResultMessage
from autogen_core.tools import FunctionTool
from autogen_ext.code_executors.local import LocalCommandLineCodeExecutor
from autogen_ext.tools.code_execution import PythonCodeExecutionTool
from autogen_ext.tools.mcp import McpWorkbench, StdioServerParams, mcp_server_tools
from pydantic import BaseModel

import agentcgroup
from agentcgroup import LimitExceeded, Session
from agentcgroup.adapter import hook
from agentcgroup.adapters.autogen import identity, seams
from agentcgroup.calls import lifecycle
from tests.support.faults import break_function
from tests.support.processes import running, until
from tests.support.scripted import autogen_model

#: For the fixture `session`.
FRAMEWORK = "autogen"
RULES = [
    {"tool": "slow*", "timeout": "2s"},
    {"agent": "slow_runner", "timeout": "2s"},
]

pytestmark = [
    pytest.mark.filterwarnings("ignore:No approval function set:UserWarning"),
    pytest.mark.filterwarnings("ignore:Using LocalCommandLineCodeExecutor:UserWarning"),
]

#: Streaming tools and the queue whose end a raising tool call withholds came with 0.6.2.
streams = pytest.mark.skipif(
    not hasattr(autogen_core.tools, "BaseStreamTool"), reason="AutoGen before 0.6.2 has no streams"
)


#: Set as `wait` begins.
_waiting = threading.Event()


def shell(command: str) -> str:
    """Run a command."""
    return subprocess.run(command, shell=True, capture_output=True, text=True).stdout


def slow_shell(command: str) -> str:
    """Run a command that takes long."""
    return shell(command)


async def ashell(command: str) -> str:
    """Run a command."""
    process = await asyncio.create_subprocess_shell(command, stdout=subprocess.PIPE)
    return (await process.communicate())[0].decode()


async def wait(seconds: float) -> str:
    """Wait without a process."""
    _waiting.set()
    await asyncio.sleep(seconds)
    return "waited"


async def slow_wait(seconds: float) -> str:
    """Wait without a process for too long."""
    return await wait(seconds)


def cgroup_of_child() -> str:
    """Say in which cgroup a child is born."""
    return subprocess.check_output(["cat", "/proc/self/cgroup"], text=True)


def fails() -> str:
    """Fail."""
    raise ValueError("mine")


def _agent(turn: list[tuple[str, dict[str, Any]]], *tools: Any, **options: Any) -> AssistantAgent:
    """Return an agent that calls tools once, together, and then says so."""
    return AssistantAgent(
        options.pop("name", "coder"),
        autogen_model(turn, "I go on."),
        tools=list(tools),
        reflect_on_tool_use=True,
        **options,
    )


def _run(agent: Any, token: CancellationToken | None = None) -> Any:
    return asyncio.run(agent.run(task="go", cancellation_token=token))


def _results(answer: Any) -> list[FunctionExecutionResult]:
    """Return the tools' results as the model got them, in the order of its calls."""
    events = [one for one in answer.messages if isinstance(one, ToolCallExecutionEvent)]
    return [result for event in events for result in event.content]


def _lives(command: str) -> bool:
    return subprocess.run(["pgrep", "-f", command], capture_output=True).returncode == 0


def _in_cgroup(text: str, cgroup: str | None) -> bool:
    unified = [line.removeprefix("0::") for line in text.splitlines() if line.startswith("0::")]
    return cgroup is not None and cgroup.endswith(unified[0])


def test_parallel_calls_are_recorded_once_with_their_names(session: Session) -> None:
    """Agent, tool and tool_call_id come from the framework, one record and cgroup a call."""
    agent = _agent(
        [("shell", {"command": "echo one"}), ("ashell", {"command": "echo two"})], shell, ashell
    )
    answer = _run(agent)

    assert answer.messages[-1].content == "I go on."
    one, two = _results(answer)
    assert (one.content, two.content, one.is_error, two.is_error) == (
        "one\n",
        "two\n",
        False,
        False,
    )
    assert [record.outcome for record in session.records] == ["ok", "ok"]
    assert {(record.tool, record.tool_call_id) for record in session.records} == {
        ("shell", one.call_id),
        ("ashell", two.call_id),
    }
    assert {(record.framework, record.agent) for record in session.records} == {
        ("autogen", "coder")
    }
    assert len({record.cgroup for record in session.records}) == 2


def test_agents_of_a_team_have_their_own_names(session: Session) -> None:
    """In a team each agent's calls carry its name, through the team's runtime."""
    agents = [
        _agent([("shell", {"command": "echo x"})], shell, name=name) for name in ("one", "two")
    ]
    team = RoundRobinGroupChat(agents, termination_condition=MaxMessageTermination(3))
    _run(team)
    assert [(record.agent, record.outcome) for record in session.records] == [
        ("one", "ok"),
        ("two", "ok"),
    ]


def test_children_of_a_sync_function_are_born_in_the_calls_cgroup(session: Session) -> None:
    """FunctionTool uses an executor without the context; the record names the right cgroup."""
    answer = _run(_agent([("cgroup_of_child", {})], cgroup_of_child))
    (record,) = session.records
    assert _in_cgroup(_results(answer)[0].content, record.cgroup)


def test_a_tool_without_a_process_makes_no_cgroup(session: Session) -> None:
    """An inline tool costs no cgroup; its record has no figures, not zeros."""

    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    assert _results(_run(_agent([("add", {"a": 1, "b": 2})], add)))[0].content == "3"
    (record,) = session.records
    assert (record.outcome, record.cgroup, record.cpu_usage_s) == ("ok", None, None)


def test_a_timeout_ends_the_tree_and_is_told(session: Session) -> None:
    """The tool's own wait returns, grandchildren are gone, the model gets one error result."""
    began = time.monotonic()
    command = "echo half; sleep 9167 & setsid sleep 9167; :"
    answer = _run(_agent([("slow_shell", {"command": command})], slow_shell))

    assert time.monotonic() - began < 50
    assert answer.messages[-1].content == "I go on."
    (told,) = _results(answer)
    assert told.is_error
    assert told.content.startswith("half\n")
    assert "time limit of 2s (timeout)" in told.content
    assert session.records[-1].outcome == "timeout"
    assert not _lives("sleep 9167")


def test_a_timeout_ends_an_async_tool_that_only_waits(session: Session) -> None:
    """No process to kill: the coroutine is cancelled, the agent goes on."""
    began = time.monotonic()
    answer = _run(_agent([("slow_wait", {"seconds": 60})], slow_wait))

    assert time.monotonic() - began < 50
    assert answer.messages[-1].content == "I go on."
    assert "time limit" in _results(answer)[0].content
    assert session.records[-1].outcome == "timeout"


def test_no_process_can_start_in_a_call_whose_time_is_over(session: Session) -> None:
    """A tool that loops over commands ends at the first after its deadline, with one sentence."""

    def slow_loop() -> str:
        """Start one process after the other."""
        for _ in range(1000):
            subprocess.run(["sleep", "0.1"])
        return "never"

    (told,) = _results(_run(_agent([("slow_loop", {})], slow_loop)))
    assert told.is_error
    assert told.content.count("time limit") == 1
    assert session.records[-1].outcome == "timeout"


def test_what_a_stopped_tool_had_printed_is_told(session: Session) -> None:
    """The answer has the output of a stopped tool and not its error, which has no useful text."""

    def slow_check() -> str:
        """Run a command that must succeed."""
        return subprocess.run(
            "echo half; sleep 9166", shell=True, check=True, capture_output=True, text=True
        ).stdout

    (told,) = _results(_run(_agent([("slow_check", {})], slow_check)))
    assert told.content.startswith("half\n\nTool 'slow_check' was stopped")


@pytest.mark.parametrize("tool", [shell, ashell, wait], ids=lambda tool: str(tool.__name__))
def test_a_cancelled_token_ends_the_tool(session: Session, tool: Callable[..., Any]) -> None:
    """AutoGen hangs on it since 0.6.2 (#7956); here the processes end and the agent goes on."""
    arguments = {"seconds": 9168} if tool is wait else {"command": "trap '' TERM; sleep 9168"}
    token = CancellationToken()
    _waiting.clear()

    async def main() -> Any:
        agent = _agent([(tool.__name__, arguments)], tool)
        run = asyncio.create_task(agent.run(task="go", cancellation_token=token))
        while not (_waiting.is_set() if tool is wait else running("sleep", "9168")):
            await asyncio.sleep(0.05)
        token.cancel()
        try:
            return await asyncio.wait_for(run, 100)
        except asyncio.CancelledError:
            return None  # before 0.6.2 this is how AutoGen itself answers

    began = time.monotonic()
    answer = asyncio.run(main())
    assert time.monotonic() - began < 50
    if answer is not None:
        assert _results(answer)[0].is_error
        assert "cancelled" in _results(answer)[0].content
    assert [record.outcome for record in session.records] == ["cancelled"]
    assert not _lives("sleep 9168")


def test_a_cancelled_token_ends_a_teams_tool(session: Session) -> None:
    """A team answers a cancelled token by CancelledError; no process is left."""
    token = CancellationToken()
    team = RoundRobinGroupChat(
        [_agent([("shell", {"command": "sleep 9169"})], shell)],
        termination_condition=MaxMessageTermination(3),
    )

    async def main() -> None:
        run = asyncio.create_task(team.run(task="go", cancellation_token=token))
        while not running("sleep", "9169"):
            await asyncio.sleep(0.05)
        token.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(run, 100)

    asyncio.run(main())
    assert [record.outcome for record in session.records] == ["cancelled"]
    assert not _lives("sleep 9169")


@pytest.mark.parametrize("tool", [shell, ashell], ids=["thread", "coroutine"])
def test_cancelling_the_agents_task_leaves_no_process(
    session: Session, tool: Callable[..., Any]
) -> None:
    """AutoGen cancels no tool's task since 0.6.2; the processes of the tools end all the same."""

    async def main() -> None:
        agent = _agent([(tool.__name__, {"command": "sleep 9170"})], tool)
        task = asyncio.create_task(agent.run(task="go"))
        while not running("sleep", "9170"):
            await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while running("sleep", "9170"):
            await asyncio.sleep(0.05)

    asyncio.run(main())
    assert [record.outcome for record in session.records] == ["cancelled"]


def test_a_background_process_is_ended_and_told(session: Session) -> None:
    """Processes that the tool left running end with the call, and the answer mentions it."""
    command = "sleep 9171 >/dev/null 2>&1 & echo started"
    (told,) = _results(_run(_agent([("shell", {"command": command})], shell)))
    assert told.content.startswith("started")
    assert "left running in the background were ended" in told.content
    assert not told.is_error
    assert session.records[-1].reason == "leftovers"
    assert not _lives("sleep 9171")


def test_the_tools_own_exception_is_the_frameworks_affair(session: Session) -> None:
    """Without a limit the model gets AutoGen's own text, and the outcome is error."""
    agentcgroup.unregister()
    (without,) = _results(_run(_agent([("fails", {})], fails)))
    again = agentcgroup.register("autogen")
    (within,) = _results(_run(_agent([("fails", {})], fails)))
    assert (
        (within.content, within.is_error) == (without.content, without.is_error) == ("mine", True)
    )
    assert [record.outcome for record in again.records] == ["error"]


@streams
def test_a_workbench_that_raises_does_not_hang_the_agent(session: Session) -> None:
    """AutoGen waits for ever for a tool call that raised; it is given an error result."""
    from autogen_core.tools import StaticWorkbench

    class Broken(StaticWorkbench):
        async def call_tool(self, *args: Any, **kwargs: Any) -> Any:
            raise ConnectionError("the server is gone")

    agent = AssistantAgent(
        "coder",
        autogen_model([("shell", {"command": "true"})], "I go on."),
        workbench=Broken([FunctionTool(shell, "Run a command.")]),
        reflect_on_tool_use=True,
    )

    async def main() -> Any:
        return await asyncio.wait_for(agent.run(task="go"), 100)

    answer = asyncio.run(main())
    assert answer.messages[-1].content == "I go on."
    assert [(r.content, r.is_error) for r in _results(answer)] == [("the server is gone", True)]
    assert [record.outcome for record in session.records] == ["error"]


def test_a_handoff_is_no_call(session: Session) -> None:
    """A handoff is a tool in form only."""
    agent = _agent([("transfer_to_other", {})], shell, handoffs=[Handoff(target="other")])
    answer = _run(agent)
    assert answer.messages[-1].target == "other"
    assert session.records == ()


def test_a_nested_agent_is_inside_the_call_that_runs_it(session: Session) -> None:
    """AgentTool: records name the parent, and the cgroups nest as the calls do."""
    inner = _agent([("shell", {"command": "true"})], shell, name="inner")
    outer = _agent([("inner", {"task": "do it"})], AgentTool(inner), name="outer")
    answer = _run(outer)
    assert "I go on." in _results(answer)[-1].content
    first, second = session.records
    assert (first.tool, first.agent) == ("shell", "inner")
    assert (second.tool, second.agent) == ("inner", "outer")
    assert first.parent_id == second.id
    assert first.cgroup is not None
    assert second.cgroup is not None
    assert first.cgroup.startswith(second.cgroup + "/")


def test_a_nested_team_is_inside_the_call_that_runs_it(session: Session) -> None:
    """TeamTool: the outer call is the parent across the team's own runtime."""
    inner = _agent([("shell", {"command": "true"})], shell, name="inner")
    team = RoundRobinGroupChat([inner], termination_condition=MaxMessageTermination(2))
    outer = _agent([("team", {"task": "do it"})], TeamTool(team, "team", "A team."), name="outer")
    _run(outer)
    first, second = session.records
    assert (first.agent, second.agent, second.tool) == ("inner", "outer", "team")
    assert first.parent_id == second.id


def test_a_timeout_ends_a_nested_agent(session: Session) -> None:
    """At the timeout of the outer call the inner tool's processes end."""
    inner = _agent([("ashell", {"command": "sleep 9172"})], ashell, name="slow_inner")
    outer = _agent([("slow_inner", {"task": "do it"})], AgentTool(inner), name="outer")
    began = time.monotonic()
    answer = _run(outer)
    assert time.monotonic() - began < 50
    assert answer.messages[-1].content == "I go on."
    assert "time limit" in _results(answer)[-1].content
    assert {record.tool: record.outcome for record in session.records}["slow_inner"] == "timeout"
    assert not _lives("sleep 9172")


def test_tools_run_without_an_agent_are_calls(session: Session) -> None:
    """run_json by user code, as ToolAgent and the agents of autogen-ext do it; nested, too."""
    tool = FunctionTool(shell, "Run a command.")

    async def both() -> str:
        """Run another tool."""
        return str(await tool.run_json({"command": "echo inside"}, CancellationToken()))

    async def main() -> Any:
        outer = FunctionTool(both, "Run another tool.")
        return await outer.run_json({}, CancellationToken())

    assert asyncio.run(main()) == "inside\n"
    first, second = session.records
    assert (first.tool, second.tool, first.agent) == ("shell", "both", None)
    assert first.parent_id == second.id


def test_a_call_of_a_task_that_outlived_its_own_is_contained(session: Session) -> None:
    """A runtime, or a task, started inside a call carries it for ever; that call is over."""
    tasks, over = [], asyncio.Event()
    inside = FunctionTool(cgroup_of_child, "Say where a child is born.", name="starter")

    async def later() -> Any:
        await over.wait()
        return await inside.run_json({}, CancellationToken())

    async def starter() -> str:
        """Start a task."""
        await ashell("true")
        tasks.append(asyncio.create_task(later()))
        return "started"

    async def main() -> Any:
        await FunctionTool(starter, "Start a task.").run_json({}, CancellationToken())
        over.set()
        return await tasks[0]

    text = asyncio.run(main())
    _, record = session.records
    assert (record.tool, record.parent_id) == ("starter", None)
    assert _in_cgroup(text, record.cgroup)


def test_a_tool_run_without_an_agent_raises_the_limit(session: Session) -> None:
    """A caller of `run_json` gets an exception, which it makes an error result of."""
    tool = FunctionTool(slow_wait, "Wait.")
    with pytest.raises(LimitExceeded, match=r"time limit of 2s \(timeout\)") as caught:
        asyncio.run(tool.run_json({"seconds": 60}, CancellationToken()))
    assert caught.value.record.outcome == "timeout"


def test_output_of_a_tool_run_without_an_agent_carries_the_sentence(
    session: Session, tmp_path: Any
) -> None:
    """The sentence is appended to a str, and to the output of AutoGen's own code tool."""
    code = "import subprocess; print('out', flush=True); subprocess.Popen(['sleep', '9173'])"
    tool = PythonCodeExecutionTool(LocalCommandLineCodeExecutor(work_dir=tmp_path))
    # The child holds no pipe of the executor's, which would wait for it.
    code = code.replace("'9173']", "'9173'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL")
    result = asyncio.run(tool.run_json({"code": code}, CancellationToken()))
    assert result.output.startswith("out\n")
    assert "left running in the background were ended" in result.output
    assert not _lives("sleep 9173")


@streams
def test_a_stream_tool_runs_in_its_call_and_its_consumer_does_not(session: Session) -> None:
    """In run_json_stream the call is current while the tool runs, and never across a yield."""
    tool = _stream_tool("stream_cgroups", 3)

    async def main() -> list[Any]:
        seen = []
        async for item in tool.run_json_stream({}, CancellationToken()):
            assert agentcgroup.current_call() is None
            seen.append(item)
        return seen

    seen = asyncio.run(main())
    (record,) = session.records
    assert (record.tool, record.outcome) == ("stream_cgroups", "ok")
    assert len(seen) == 3
    assert all(_in_cgroup(item.text, record.cgroup) for item in seen)


@streams
def test_a_stream_that_is_closed_early_ends_its_call(session: Session) -> None:
    """Closed from another context than it was iterated in."""
    tool = _stream_tool("stream_cgroups", 1000)

    async def main() -> None:
        stream = tool.run_json_stream({}, CancellationToken())
        await asyncio.create_task(stream.__anext__())
        await asyncio.create_task(stream.aclose())

    asyncio.run(main())
    assert [record.outcome for record in session.records] == ["cancelled"]


@streams
def test_a_streams_time_is_that_of_the_whole(session: Session) -> None:
    """Steps that are short each end at the deadline, while the consumer is not cancelled."""
    tool = _stream_tool("slow_stream", 1000)

    async def main() -> None:
        async for _ in tool.run_json_stream({}, CancellationToken()):
            await asyncio.sleep(0.05)

    with pytest.raises(LimitExceeded, match="time limit"):
        asyncio.run(main())
    assert [record.outcome for record in session.records] == ["timeout"]


@streams
def test_a_stream_tool_of_an_agent_is_one_call(session: Session) -> None:
    """Both wrappers run for the same call; the inner one passes through."""
    tool = _stream_tool("stream_cgroups", 1)
    answer = _run(_agent([("stream_cgroups", {})], tool))
    (record,) = session.records
    assert (record.agent, record.outcome) == ("coder", "ok")
    assert _in_cgroup(_results(answer)[0].content, record.cgroup)


class _Nothing(BaseModel):
    pass


class _Cgroup(BaseModel):
    text: str


def _stream_tool(name: str, times: int) -> Any:
    from autogen_core.tools import BaseStreamTool

    class StreamTool(BaseStreamTool[_Nothing, _Cgroup, _Cgroup]):
        async def run(self, args: _Nothing, cancellation_token: CancellationToken) -> _Cgroup:
            raise NotImplementedError

        async def run_stream(
            self, args: _Nothing, cancellation_token: CancellationToken
        ) -> AsyncGenerator[_Cgroup, None]:
            for _ in range(times):
                yield _Cgroup(text=cgroup_of_child())

        def return_value_as_string(self, value: Any) -> str:
            return str(value.text)

    return StreamTool(_Nothing, _Cgroup, name, "Say in which cgroup a child is born.")


def _run_code(
    command: str, folder: Any, name: str = "runner", token: CancellationToken | None = None
) -> Any:
    """Give an agent a block of code that runs a command; Python is what every version takes."""
    agent = CodeExecutorAgent(name, LocalCommandLineCodeExecutor(work_dir=folder))
    code = f"```python\nimport os\nos.system({command!r})\n```"
    task = TextMessage(content=code, source="user")
    answer = asyncio.run(agent.run(task=task, cancellation_token=token))
    return answer.messages[-1].content


def test_code_of_a_code_executor_agent_is_a_call(session: Session, tmp_path: Any) -> None:
    """Without tool and id the record names the agent and the framework's own method."""
    inside = _run_code("cat /proc/self/cgroup", tmp_path)
    (record,) = session.records
    assert (record.agent, record.tool, record.tool_call_id, record.outcome) == (
        "runner",
        "execute_code_block",
        None,
        "ok",
    )
    assert _in_cgroup(inside, record.cgroup)


def test_code_that_takes_too_long_is_ended_and_told(session: Session, tmp_path: Any) -> None:
    """The code result has the output of the code and the sentence."""
    told = _run_code("echo half; sleep 9174", tmp_path, name="slow_runner")
    assert "half" in told
    assert "time limit of 2s (timeout)" in told
    assert session.records[-1].outcome == "timeout"
    assert not _lives("sleep 9174")


def test_a_cancelled_token_ends_code(session: Session, tmp_path: Any) -> None:
    """AutoGen's executor ignores the token once the process runs."""
    token = CancellationToken()

    def cancel() -> None:
        assert until(lambda: bool(running("sleep", "9175")))
        token.cancel()

    threading.Thread(target=cancel).start()
    began = time.monotonic()
    _run_code("trap '' TERM; sleep 9175", tmp_path, token=token)
    assert time.monotonic() - began < 50
    assert session.records[-1].outcome == "cancelled"
    assert not _lives("sleep 9175")


def _server_params() -> StdioServerParams:
    path = os.path.join(os.path.dirname(__file__), "mcp_server.py")
    return StdioServerParams(command=sys.executable, args=[path], read_timeout_seconds=60)


def _mcp_agent(workbench: McpWorkbench, *turns: Any, name: str = "coder") -> AssistantAgent:
    return AssistantAgent(
        name, autogen_model(*turns), workbench=workbench, reflect_on_tool_use=True
    )


def test_mcp_calls_are_recorded_and_timed(session: Session) -> None:
    """Tools of an MCP workbench are no BaseTool; the server serves on after a timeout."""

    async def main() -> list[FunctionExecutionResult]:
        workbench = McpWorkbench(_server_params())
        agent = _mcp_agent(
            workbench,
            [("server_pid", {})],
            "first",
            [("slow_server", {"seconds": 60})],
            "second",
            [("server_pid", {})],
            "third",
        )
        results = [result for _ in range(3) for result in _results(await agent.run(task="go"))]
        await workbench.stop()
        return results

    first, slow, last = asyncio.run(main())
    assert (slow.is_error, last.is_error) == (True, False)
    assert "time limit of 2s (timeout)" in slow.content
    assert first.content == last.content
    assert [(record.tool, record.agent, record.outcome) for record in session.records] == [
        ("server_pid", "coder", "ok"),
        ("slow_server", "coder", "timeout"),
        ("server_pid", "coder", "ok"),
    ]


def test_an_mcp_server_of_one_call_is_in_its_cgroup(session: Session) -> None:
    """Tools of mcp_server_tools start a server for each call, and stop it cleanly."""

    async def main() -> Any:
        tools = await mcp_server_tools(_server_params())
        (server_pid,) = [tool for tool in tools if tool.name == "server_pid"]
        return await _agent([("server_pid", {})], server_pid).run(task="go")

    (told,) = _results(asyncio.run(main()))
    assert not told.is_error
    (record,) = session.records
    assert (record.outcome, record.reason) == ("ok", None)
    assert record.cgroup is not None


def test_an_mcp_server_outlives_the_call_that_first_needs_it(session: Session) -> None:
    """A nested agent starts its server inside the outer call, and uses it in the next again."""

    async def main() -> list[str]:
        workbench = McpWorkbench(_server_params())
        inner = _mcp_agent(
            workbench, [("server_pid", {})], "in", [("server_pid", {})], "in", name="inner"
        )
        outer = AssistantAgent(
            "outer",
            autogen_model([("inner", {"task": "go"})], "out", [("inner", {"task": "go"})], "out"),
            tools=[AgentTool(inner)],
            reflect_on_tool_use=True,
        )
        for _ in range(2):
            await outer.run(task="go")
        context = await inner.model_context.get_messages()
        await workbench.stop()
        return [
            result.content
            for message in context
            if isinstance(message, FunctionExecutionResultMessage)
            for result in message.content
        ]

    one, two = asyncio.run(main())
    assert one == two
    assert one.isdigit()
    assert [(record.outcome, record.reason) for record in session.records] == [("ok", None)] * 4


def test_registering_twice_wraps_once(session: Session) -> None:
    """The second registration returns the session and adds no wrapper."""
    there = AssistantAgent._execute_tool_call
    assert agentcgroup.register("autogen") is session
    assert AssistantAgent._execute_tool_call is there
    _run(_agent([("shell", {"command": "true"})], shell))
    assert len(session.records) == 1


def test_unregistered_hooks_are_inert() -> None:
    """After unregister the same agent runs uncontained, and leaves no record."""
    session = agentcgroup.register("autogen")
    agentcgroup.unregister()
    (told,) = _results(_run(_agent([("shell", {"command": "echo free"})], shell)))
    assert (told.content, told.is_error) == ("free\n", False)
    assert session.records == ()


def test_a_fault_in_the_identity_layer_changes_no_result(
    session: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """Calls whose identity cannot be read are contained, with the same results."""
    for read in (identity.of_request, identity.of_tool, identity.of_code):
        break_function(monkeypatch, read)
    (told,) = _results(_run(_agent([("cgroup_of_child", {})], cgroup_of_child)))
    assert not told.is_error
    assert session.records
    assert any(_in_cgroup(told.content, record.cgroup) for record in session.records)
    assert "here" in _run_code("echo here", tmp_path)


@streams
def test_a_fault_of_ours_does_not_hang_the_agent(
    session: Session, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A tool that cannot be contained does not run: the log and the model get an error."""

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no session today")

    monkeypatch.setattr(lifecycle, "open_call", broken)
    agent = _agent([("shell", {"command": "echo x"})], shell)

    async def main() -> Any:
        return await asyncio.wait_for(agent.run(task="go"), 100)

    (told,) = _results(asyncio.run(main()))
    assert (told.content, told.is_error) == ("no session today", True)
    assert "a tool call failed outside its tool" in caplog.text


def test_a_seam_that_is_missing_is_said_loudly(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a version without a seam the warning names the calls that are not contained."""
    monkeypatch.delattr(autogen_agentchat.agents, "CodeExecutorAgent")
    module = "autogen_agentchat.agents"
    hook(module, seams.SEAMS[module])
    (record,) = caplog.records
    assert "agents.CodeExecutorAgent.execute_code_block is missing" in record.getMessage()
    assert "NOT contained" in record.getMessage()


def test_what_a_sync_function_uses_of_its_thread_is_estimated(session: Session) -> None:
    """AutoGen runs it in a thread, which is measured; a coroutine shares the loop's thread."""

    def busy(seconds: float) -> str:
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass
        return "done"

    tools = [FunctionTool(busy, "Be busy."), FunctionTool(wait, "Wait.")]
    for one in tools:
        asyncio.run(one.run_json({"seconds": 0.05}, CancellationToken()))
    worked, waited = session.records
    assert worked.thread_cpu_s is not None
    assert worked.thread_cpu_s >= 0.03  # but for the last timer tick
    assert waited.thread_cpu_s is None
