"""The rows: behaviours that every framework has on every path.

Each cell asserts the records, the model's inputs, and (in the fixtures) that no process and no
cgroup is left.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import agentcgroup
from agentcgroup import CallRecord, Session
from tests.frameworks.conformance import tools
from tests.frameworks.conformance.conftest import CONFIG, processes
from tests.frameworks.conformance.driver import DRIVERS, Driver, Reply, ToolAnswer, load
from tests.support.processes import SOON, meeting, until
from tests.support.scripted import Turn

pytestmark = [
    pytest.mark.filterwarnings("ignore:No approval function set:UserWarning"),
    pytest.mark.filterwarnings("ignore:Using LocalCommandLineCodeExecutor:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:crewai"),
]

LATE = "time limit of 2s (timeout)"
HANGS = "echo half; sleep 600 & setsid sleep 600; exit 3"


def _ask(tool: str, /, **arguments: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(tool, arguments)]


def _is_in(text: str, record: CallRecord) -> bool:
    """Return whether a process that printed its /proc/self/cgroup was in the record's cgroup."""
    assert record.cgroup is not None
    unified = re.search(r"0::(/[\w./-]*)", text)
    assert unified is not None
    return record.cgroup.endswith(unified[1])


def _names(record: CallRecord) -> tuple[str, str | None, str, str]:
    return record.framework, record.agent, record.tool, record.outcome


def _in_order(session: Session) -> list[CallRecord]:
    """Return the records by their start: that of a call that met a limit comes before others."""
    return sorted(session.records, key=lambda record: record.started_at)


def test_sync_tool(driver: Driver, session: Session) -> None:
    """A tool without a process: one record with the framework's names, no cgroup, no figures."""
    reply = driver.run(driver.build(_ask("add", a=1, b=2), "done", tools=[tools.add]))
    assert reply == Reply("done", (ToolAnswer("add", "3", failed=False),))
    (record,) = session.records
    assert _names(record) == (driver.framework, "coder", "add", "ok")
    assert (record.cgroup, record.cpu_usage_s, record.parent_id) == (None, None, None)


def test_async_tool(driver: Driver, session: Session) -> None:
    """A coroutine is one call, and the process that it awaits is in its cgroup."""
    reply = driver.run(driver.build(_ask("later", text="late"), "done", tools=[tools.later]))
    (answer,) = reply.answers
    (record,) = session.records
    assert answer.text.startswith("late\n")
    assert _is_in(answer.text, record)
    assert _names(record) == (driver.framework, "coder", "later", "ok")


def test_any_argument_name(driver: Driver, session: Session) -> None:
    """A tool names its arguments as it likes."""
    names = ("body", "call", "answer", "original", "session", "tool")
    arguments = {name: name.upper() for name in names}
    reply = driver.run(driver.build(_ask("letter", **arguments), "done", tools=[tools.letter]))
    assert [answer.text for answer in reply.answers] == ["BODY CALL ANSWER ORIGINAL SESSION TOOL"]
    assert [_names(record)[2:] for record in session.records] == [("letter", "ok")]


def test_subprocess_tool(driver: Driver, session: Session) -> None:
    """A child is born in the cgroup that the record names, and its use is measured."""
    agent = driver.build(
        _ask("shell", command="cat /proc/self/cgroup"), "done", tools=[tools.shell]
    )
    reply = driver.run(agent)
    (record,) = session.records
    assert reply.text == "done"
    assert _is_in(reply.answers[0].text, record)
    assert _names(record) == (driver.framework, "coder", "shell", "ok")
    assert record.cpu_usage_s is not None


def test_parallel(driver: Driver, session: Session, tmp_path: Path) -> None:
    """Two calls of one turn run at once, each with its own id and cgroup."""
    calls = [(name, {"command": meet}) for name, meet in meeting("shell", "other_shell", tmp_path)]
    driver.run(driver.build(calls, "done", tools=[tools.shell, tools.other_shell]))
    first, second = sorted(session.records, key=lambda record: record.started_at)
    assert second.started_at < first.started_at + first.duration_s
    assert {first.tool, second.tool} == {"shell", "other_shell"}
    assert first.cgroup != second.cgroup
    assert None not in (first.tool_call_id, second.tool_call_id)
    assert first.tool_call_id != second.tool_call_id


def test_nested_agent(driver: Driver, session: Session) -> None:
    """The inner agent's call has the outer's for a parent, and its cgroup is below that one's."""
    agent = driver.build_nested(_ask("shell", command="true"), "inside", tools=[tools.shell])
    reply = driver.run(agent)
    assert reply.text == "done"
    inner, outer = session.records
    assert (inner.agent, inner.tool, inner.outcome) == ("inner", "shell", "ok")
    assert (outer.agent, outer.outcome, outer.parent_id) == ("outer", "ok", None)
    assert inner.parent_id == outer.id
    assert inner.cgroup is not None
    assert outer.cgroup is not None
    assert inner.cgroup.startswith(f"{outer.cgroup}/")


def test_isolated_tool(driver: Driver, session: Session) -> None:
    """The body runs in a fresh worker in the call's cgroup; a crash ends that one call."""
    turns = [_ask("isolated_where", crash=crash) for crash in (False, True, False)]
    reply = driver.run(driver.build(*turns, "done", tools=[tools.isolated_where]))
    first, crashed, last = _in_order(session)
    assert reply.text == "done"
    assert {record.isolation for record in session.records} == {"process"}
    assert _names(first) == _names(last) == (driver.framework, "coder", "isolated_where", "ok")
    assert (crashed.outcome, crashed.reason) == ("killed", "crashed: SIGSEGV")
    assert _is_in(reply.answers[0].text, first)
    assert _is_in(reply.answers[2].text, last)
    assert "crashed (SIGSEGV)" in reply.answers[1].text
    pids = {answer.text.split("\n")[0] for answer in reply.answers}
    assert len(pids - {f"pid {os.getpid()}"}) == 3


def test_isolated_async_tool(driver: Driver, session: Session) -> None:
    """A coroutine runs in a loop of the worker's own."""
    agent = driver.build(_ask("isolated_later", text="it"), "done", tools=[tools.isolated_later])
    (answer,) = driver.run(agent).answers
    (record,) = session.records
    assert re.fullmatch(r"it from \d+", answer.text)
    assert answer.text != f"it from {os.getpid()}"
    assert (record.outcome, record.isolation) == ("ok", "process")


def test_isolated_timeout(driver: Driver, session: Session) -> None:
    """A timeout ends a tool that never releases the interpreter."""
    agent = driver.build(_ask("slow_isolated", text="on"), "done", tools=[tools.slow_isolated])
    reply = driver.run(agent)
    (record,) = session.records
    assert reply.text == "done"
    assert LATE in reply.answers[0].text
    assert (record.outcome, record.isolation) == ("timeout", "process")


def test_unshippable(driver: Driver, session: Session) -> None:
    """A tool that no worker can run is refused by name, or runs inline where the rule allows it."""
    agent = driver.build(
        _ask("isolated_lock", text="no"),
        _ask("lenient_isolated_lock", text="yes"),
        "done",
        tools=[tools.locked("isolated_lock"), tools.locked("lenient_isolated_lock")],
    )
    reply = driver.run(agent)
    refused, inline = _in_order(session)
    assert reply.text == "done"
    assert "closure variable 'lock' of 'isolated_lock' (_thread.lock)" in reply.answers[0].text
    assert "config= rule 2" in reply.answers[0].text
    assert reply.answers[1].text == f"yes from {os.getpid()}"
    assert (refused.outcome, inline.outcome) == ("rejected", "ok")
    assert (refused.isolation, inline.isolation) == ("inline", "inline")
    for record in (refused, inline):
        assert record.reason is not None
        assert record.reason.startswith("unshippable: closure variable 'lock'")


def test_retry(driver: Driver, session: Session) -> None:
    """Each attempt is a call, whether the framework tries again or the model does."""
    turns = [_ask("flaky_tool")] * (1 if driver.retries else 2)
    reply = driver.run(driver.build(*turns, "done", tools=[tools.flaky()], retry=True))
    assert reply.text == "done"
    assert reply.answers[-1] == ToolAnswer("flaky_tool", "now", failed=False)
    failed, passed = session.records
    assert (failed.outcome, passed.outcome) == ("error", "ok")
    assert failed.id != passed.id


def test_exception(driver: Driver, nothing_left: None) -> None:
    """An exception of a tool has the same effect with agentcgroup as without."""

    def ended() -> Reply | str:
        agent = driver.build(_ask("fails"), "done", tools=[tools.fails])
        try:
            return driver.run(agent)
        except Exception as error:
            return repr(error)

    without = ended()
    session = agentcgroup.register(driver.framework, config=CONFIG)
    within = ended()
    outcomes = {record.outcome for record in session.records}
    agentcgroup.unregister()
    assert within == without
    assert outcomes == {"error"}


@pytest.mark.parametrize("tool", [tools.slow_shell, tools.slow_strict], ids=["hides", "raises"])
def test_timeout(driver: Driver, session: Session, token: str, tool: Callable[[str], str]) -> None:
    """The process tree ends, the tool ran once, the model gets its output and one sentence.

    A tool that looks at no exit status hides the kill in a result; another one raises.
    """
    began = time.monotonic()
    reply = driver.run(driver.build(_ask(tool.__name__, command=HANGS), "went on", tools=[tool]))
    assert time.monotonic() - began < SOON
    assert reply.text == "went on"
    (answer,) = reply.answers
    assert answer.failed is driver.marks_errors
    assert answer.text.startswith("half\n")
    assert answer.text.count(LATE) == 1
    (record,) = session.records
    assert _names(record) == (driver.framework, "coder", tool.__name__, "timeout")
    assert until(lambda: not processes(token))


def test_cancelled(driver: Driver, session: Session, token: str, tmp_path: Path) -> None:
    """A cancelled run leaves no process, though its tool is in a thread."""
    witness = tmp_path / "started"
    command = f"touch {witness}; trap '' TERM; sleep 600"
    agent = driver.build(_ask("shell", command=command), "never", tools=[tools.shell])

    async def started() -> None:
        for _ in range(int(SOON / 0.05)):
            if witness.exists():
                assert processes(token) != []
                return
            await asyncio.sleep(0.05)
        pytest.fail("the tool has not started")

    asyncio.run(driver.give_up(agent, started))
    assert [record.outcome for record in session.records] == ["cancelled"]
    assert until(lambda: not processes(token))


def test_background(driver: Driver, session: Session, token: str) -> None:
    """Processes that a tool left running end with the call; the result has a note."""
    command = "setsid sleep 600 >/dev/null 2>&1 & echo started"
    agent = driver.build(_ask("shell", command=command), "done", tools=[tools.shell])
    (answer,) = driver.run(agent).answers
    assert answer.text.startswith("started\n")
    assert "left running in the background were ended" in answer.text
    assert not answer.failed
    (record,) = session.records
    assert (record.outcome, record.reason) == ("ok", "leftovers")
    assert until(lambda: not processes(token))


def test_state(driver: Driver, session: Session) -> None:
    """A tool with state runs in the app's process."""
    note = tools.Notebook()
    turns = [_ask("note", line="one"), _ask("note", line="two")]
    reply = driver.run(driver.build(*turns, "done", tools=[note.tool()]))
    assert [answer.text for answer in reply.answers] == ["one", "one two"]
    assert note.lines == ["one", "two"]
    assert [record.outcome for record in session.records] == ["ok", "ok"]


def test_streaming(driver: Driver, session: Session) -> None:
    """A streamed run is contained, with the same answers."""
    turns = [
        _ask("shell", command="cat /proc/self/cgroup"),
        _ask("slow_shell", command=HANGS),
    ]
    reply = driver.stream(driver.build(*turns, "done", tools=[tools.shell, tools.slow_shell]))
    assert reply.text == "done"
    first, second = _in_order(session)
    assert _is_in(reply.answers[0].text, first)
    assert LATE in reply.answers[1].text
    assert [record.agent for record in session.records] == ["coder", "coder"]
    assert [first.outcome, second.outcome] == ["ok", "timeout"]


def test_mcp_server(driver: Driver, session: Session) -> None:
    """A server over stdio that is started for a call is born in its cgroup, and ends with it."""
    server = os.path.join(os.path.dirname(__file__), os.pardir, "mcp_server.py")
    agent = driver.build_mcp("server_cgroup", [sys.executable, server], os.environ)
    (answer,) = driver.run(agent).answers
    (record,) = session.records
    assert not answer.failed
    assert _is_in(answer.text, record)
    assert (record.framework, record.agent, record.outcome) == (driver.framework, "coder", "ok")


def test_code_executor(driver: Driver, session: Session, tmp_path: Path) -> None:
    """Code that the framework's own executor runs is a call, and contained."""
    reply = driver.run(driver.build_code("cat /proc/self/cgroup", tmp_path))
    (record,) = session.records
    assert _names(record) == (driver.framework, "coder", driver.code_tool, "ok")
    assert _is_in(reply.answers[0].text if reply.answers else reply.text, record)


def test_identity_fault(driver: Driver, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a fault in every function that reads names, results are the same and calls contained."""
    driver.break_identity(monkeypatch)
    turns: list[Turn] = [_ask("add", a=1, b=2), _ask("shell", command="cat /proc/self/cgroup")]
    reply = driver.run(driver.build(*turns, "done", tools=[tools.add, tools.shell]))
    assert reply.text == "done"
    added, shown = reply.answers
    assert added == ToolAnswer("add", "3", failed=False)
    contained = [record for record in session.records if record.cgroup is not None]
    assert any(_is_in(shown.text, record) for record in contained)
    assert {record.agent for record in session.records} == {None}


def test_unregister(driver: Driver, nothing_left: None) -> None:
    """Agents made before, within and after a registration run uncontained once it is over."""
    call = _ask("shell", command="cat /proc/self/cgroup")

    def agent() -> Any:
        return driver.build(call, "done", tools=[tools.shell])

    before = agent()
    session = agentcgroup.register(driver.framework, config=CONFIG)
    within = agent()
    agentcgroup.unregister()
    texts = {driver.run(one).answers[0].text.strip() for one in (before, within, agent())}
    assert texts == {tools.shell("cat /proc/self/cgroup").strip()}
    assert session.records == ()


def test_register_twice(driver: Driver, session: Session) -> None:
    """The second registration returns the session, and a call is still one."""
    assert agentcgroup.register(driver.framework) is session
    driver.run(driver.build(_ask("shell", command="true"), "done", tools=[tools.shell]))
    assert [record.outcome for record in session.records] == ["ok"]


@pytest.mark.parametrize("column", DRIVERS)
def test_every_absent_cell_is_a_row_and_says_why(column: str) -> None:
    """Every absent cell is a row of the table, with a reference."""
    rows = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    for row, reason in load(column).absent.items():
        assert row in rows
        assert "#" in reason or "/" in reason
