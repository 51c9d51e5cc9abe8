"""An async call never blocks its event loop, is not seen to, and is settled whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import agentcgroup
from agentcgroup import Session, off_loop
from tests.support.faults import no_descriptor_left
from tests.support.processes import ended, until

PROGRAM = Path(__file__).parents[2] / "cases" / "event_loop.py"
#: What each call of the program gives, or how that begins.
GIVEN = {
    "echo": "x",
    "shell": "in x 3",
    "fails": "KeyError: 'x'",
    "missing": "FileNotFoundError: [Errno 2] No such file or directory",
    "leaves": "x",
    "hangs": "LimitExceeded: Tool 'hangs' was stopped: it reached its time limit of 1s (timeout)",
    "waits": "LimitExceeded: Tool 'waits' was stopped: it reached its time limit of 1s (timeout)",
    "large": "3000000 characters",
    "prints": "x",
    "outer": "xx",
    "burst": "0 1 2 3 4 5 6 7",
    "hangs cancelled after 0.0": "CancelledError",
    "hangs cancelled after 0.3": "CancelledError",
    "waits cancelled after 0.0": "CancelledError",
    "waits cancelled after 0.3": "CancelledError",
    "large cancelled after 0.0": "",  # it may have returned by then
    "large cancelled after 0.3": "",
}


@pytest.fixture
def session() -> Iterator[Session]:
    yield agentcgroup.register("langchain", config={})
    agentcgroup.unregister()


def run(*options: str) -> dict[str, Any]:
    command = [sys.executable, str(PROGRAM), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert "BlockingError" not in done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("isolation", ["inline", "process"])
@pytest.mark.parametrize(
    ("loop", "when", "place"),
    [
        ("asyncio", "before", "cgroup"),
        ("asyncio", "after", "none"),
        ("uvloop", "before", "none"),
        ("uvloop", "after", "cgroup"),
    ],
)
def test_blockbuster_finds_no_blocking_call(
    loop: str, when: str, isolation: str, place: str
) -> None:
    """BlockBuster raises from what blocks, in the thread of an event loop, as `langgraph dev`."""
    result = run(loop, when, isolation, place)
    given = {name: text[: len(GIVEN[name])] for name, text in result["given"].items()}
    assert given == GIVEN
    records = [tuple(record) for record in result["records"]]
    assert records.count(("hangs", "timeout", "timeout")) == 1
    assert records.count(("waits", "timeout", "timeout")) == 1
    assert records.count(("fails", "error", None)) == 1
    assert records.count(("echo", "ok", None)) == 9
    if isolation == "inline":
        assert records.count(("inner", "ok", None)) == 1
    if place == "cgroup":
        assert records.count(("leaves", "ok", "leftovers")) == 1
    assert len([record for record in records if record[:2] == ("hangs", "cancelled")]) >= 1


# -- whatever happens at the end of a call, it is settled --------------------------------------


SYNC = """
import asyncio
import agentcgroup
from blockbuster import blockbuster_ctx
from langchain_core.tools import tool

@tool
def small(x: str) -> str:
    "Answer."
    return x

@tool
def large(x: str) -> str:
    "Answer with as much."
    return x * 2

@tool
def fails(x: str) -> str:
    "Fail."
    raise KeyError(x)

async def main() -> None:
    assert small.invoke({"x": "a"}) == "a"  # starts the fork server
    assert small.invoke({"x": "b"}) == "b"
    assert large.invoke({"x": "c" * 2_000_000}) == "c" * 4_000_000
    try:
        fails.invoke({"x": "d"})
    except KeyError as error:
        assert error.args == ("d",)
    assert await small.ainvoke({"x": "e"}) == "e"

config = {"limits": {"call": {"isolation": "process"}}}
with agentcgroup.register("langchain", config=config) as session, blockbuster_ctx():
    asyncio.run(main())
print([record.isolation for record in session.records])
"""


def test_blockbuster_lets_sync_calls_wait_for_their_workers(tmp_path: Path) -> None:
    """As it lets a sync tool that computes."""
    program = tmp_path / "sync.py"
    program.write_text(SYNC)
    command = [sys.executable, str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{['process'] * 5}\n"


async def _sleeping() -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec("sleep", "100")


def _gone(session: Session, tool: str) -> bool:
    """Wait until the cgroup of a call is removed."""
    path = next(one.cgroup for one in session.records if one.tool == tool)
    assert path is not None
    return until(lambda: not os.path.exists(path))


def test_a_call_is_settled_where_its_coroutine_is_closed(session: Session) -> None:
    """A closed coroutine cannot await: nothing waits for its processes, and they are ended."""
    pids = []

    async def body() -> None:
        async with agentcgroup.call("closed"):
            pids.append((await _sleeping()).pid)
            await asyncio.Event().wait()

    async def main() -> None:
        coroutine = body()
        waiting = coroutine.send(None)
        while not pids:
            await asyncio.sleep(0.01)
            with contextlib.suppress(asyncio.InvalidStateError):
                waiting = coroutine.send(None)
        coroutine.close()
        _ = waiting

    asyncio.run(main())
    assert ended(*pids)
    (record,) = session.records
    assert (record.outcome, record.reason) == ("cancelled", "cancelled")
    assert _gone(session, "closed")


def test_a_second_cancellation_leaves_no_call_unsettled(session: Session) -> None:
    """It comes while a thread ends the processes of the first."""
    pids = []

    async def body() -> None:
        async with agentcgroup.call("cancelled"):
            pids.append((await _sleeping()).pid)
            await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.create_task(body())
        while not pids:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.sleep(0)
        for _ in range(10):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended(*pids)

    asyncio.run(main())
    (record,) = session.records
    assert record.outcome == "cancelled"
    assert _gone(session, "cancelled")


def test_a_call_ends_while_the_loop_has_no_thread_free(session: Session) -> None:
    """Tools that run in the loop's executor for long do not keep others from ending."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        release = threading.Event()
        busy = [loop.run_in_executor(None, release.wait) for _ in range(64)]
        async with agentcgroup.call("leaves"):
            process = await asyncio.create_subprocess_shell("sleep 100 & true")
            await process.wait()
        release.set()
        await asyncio.gather(*busy)

    asyncio.run(asyncio.wait_for(main(), 60))
    (record,) = session.records
    assert (record.outcome, record.reason) == ("ok", "leftovers")


def test_a_call_without_a_free_descriptor_gives_its_result(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    """Cgroupfs cannot be read then: the record lacks figures, and the log says so."""
    with contextlib.ExitStack() as stack, agentcgroup.call("full"):
        subprocess.run(["true"], check=True)
        leftover = subprocess.Popen(["sleep", "100"])
        stack.enter_context(no_descriptor_left())
    assert ended(leftover.pid)
    leftover.wait()
    (record,) = session.records
    assert record.outcome == "ok"
    assert "may not be ended" in caplog.text
    assert _gone(session, "full")


def test_an_async_call_without_a_free_descriptor_gives_its_result(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    pids = []

    async def main() -> str:
        with contextlib.ExitStack() as stack:
            async with agentcgroup.call("full"):
                pids.append((await _sleeping()).pid)
                stack.enter_context(no_descriptor_left())
            return "result"

    assert asyncio.run(main()) == "result"
    assert ended(*pids)
    (record,) = session.records
    assert record.outcome == "ok"
    assert "may not be ended" in caplog.text
    assert _gone(session, "full")


def test_an_interrupt_at_the_end_of_a_call_settles_it(session: Session) -> None:
    """Control-C, while the end of the call waits for a process that was left."""
    left = []

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def leave() -> None:
        with agentcgroup.call("interrupted"):
            left.append(subprocess.Popen(["sleep", "100"]))
            signal.setitimer(signal.ITIMER_REAL, 0.02)

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            leave()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert ended(left[0].pid)
    left[0].wait()
    (record,) = session.records
    assert record.tool == "interrupted"
    assert _gone(session, "interrupted")


# -- the thread ---------------------------------------------------------------------------------


def test_work_off_the_loop_ends_before_the_cancellation() -> None:
    done = []

    def work() -> None:
        time.sleep(0.2)
        done.append(True)

    async def main() -> None:
        task = asyncio.create_task(off_loop.run_to_end(work))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert done

    asyncio.run(main())


def test_work_off_the_loop_raises_where_it_is_awaited() -> None:
    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            await off_loop.run(lambda: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            await off_loop.run_to_end(lambda: 1 // 0)

    asyncio.run(main())
