"""What threads, tasks and work items of an ended call start: bounded, and never refused for it."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from typing import Any

import pytest

import agentcgroup
from agentcgroup import LimitExceeded, Session, scope
from agentcgroup.calls import lifecycle
from agentcgroup.calls.cancellation import cancelling
from agentcgroup.calls.services import active
from tests.support.processes import SOON


@pytest.fixture
def session() -> Iterator[Session]:
    yield agentcgroup.register("langchain", config={"limits": {"call": {"timeout": "60s"}}})
    agentcgroup.unregister()


def where() -> str:
    """Return the cgroup that a child is born in."""
    return subprocess.run(
        ["cat", "/proc/self/cgroup"], check=True, capture_output=True, text=True
    ).stdout.strip()


class QueueThread:
    """A thread with a queue, started by whoever asks first."""

    def __init__(self) -> None:
        self._jobs: queue.Queue[tuple[Callable[[], Any], Future[Any]] | None] = queue.Queue()
        self._start()

    def _start(self) -> None:
        threading.Thread(target=self.work).start()

    def work(self) -> None:
        while job := self._jobs.get():
            try:
                job[1].set_result(job[0]())
            except BaseException as error:
                job[1].set_exception(error)

    def ask(self, job: Callable[[], Any]) -> Any:
        future: Future[Any] = Future()
        self._jobs.put((job, future))
        return future.result(SOON)

    def close(self) -> None:
        self._jobs.put(None)


class ExecutorLoop(QueueThread):
    """The same loop as a work item that never ends."""

    def _start(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._pool.submit(self.work)

    def close(self) -> None:
        super().close()
        self._pool.shutdown()


class TaskQueue:
    """An asyncio task with a queue, on a loop in a thread, started by whoever asks first."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._jobs: asyncio.Queue[Any] = asyncio.Queue()
        self._task = asyncio.run_coroutine_threadsafe(self._work(), self._loop)

    async def _work(self) -> None:
        while job := await self._jobs.get():
            try:
                job[1].set_result(job[0]())
            except BaseException as error:
                job[1].set_exception(error)

    def ask(self, job: Callable[[], Any]) -> Any:
        future: Future[Any] = Future()
        self._loop.call_soon_threadsafe(self._jobs.put_nowait, (job, future))
        return future.result(SOON)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._jobs.put_nowait, None)
        self._task.result(SOON)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Pool:
    """A pool of threads whose worker the first work item starts."""

    def __init__(self) -> None:
        self._pool = ThreadPool(1)

    def ask(self, job: Callable[[], Any]) -> Any:
        return self._pool.apply(job)

    def close(self) -> None:
        self._pool.close()
        self._pool.join()


HELPERS = [QueueThread, ExecutorLoop, TaskQueue, Pool]


@contextlib.contextmanager
def made_by(tool: str, kind: Any, *, stopped: bool) -> Iterator[Any]:
    """Yield a helper that a call has made and used, after the call's end."""
    services = active()
    assert services is not None
    call = lifecycle.open_call(services, "python", None, tool)
    token = lifecycle.enter(call)
    helper = kind()
    assert "call-" in helper.ask(where)
    if stopped:
        call.stop("timeout")
        with pytest.raises(LimitExceeded):
            helper.ask(where)
    lifecycle.leave(call, token)
    assert call.record.outcome == ("timeout" if stopped else "ok")
    try:
        yield helper
    finally:
        helper.close()


@pytest.mark.parametrize("stopped", [False, True], ids=["returned", "timed-out"])
@pytest.mark.parametrize("kind", HELPERS)
def test_a_helper_of_an_ended_call_works_for_the_one_that_runs(
    session: Session, kind: Any, stopped: bool
) -> None:
    with made_by("first", kind, stopped=stopped) as helper:
        for tool in ("second", "third"):
            with agentcgroup.call(tool):
                inside = helper.ask(where)
            record = session.records[-1]
            assert (record.tool, record.outcome, record.reason) == (tool, "ok", None)
            assert record.cgroup is not None
            assert inside.endswith(record.cgroup.partition("/agentcgroup")[2])


@pytest.mark.parametrize("stopped", [False, True], ids=["returned", "timed-out"])
@pytest.mark.parametrize("kind", [QueueThread, ExecutorLoop, TaskQueue])
def test_with_several_running_calls_or_none_its_processes_belong_to_the_agent(
    session: Session, kind: Any, stopped: bool
) -> None:
    with made_by("first", kind, stopped=stopped) as helper:
        none = helper.ask(where)
        with contextlib.ExitStack() as stack:
            others = [
                lifecycle.open_call(session._services, "python", None, tool)
                for tool in ("second", "third")
            ]
            for call in others:
                stack.callback(lifecycle.leave, call, lifecycle.enter(call))
                scope.current.set(None)  # beside each other, as in two threads
            several = helper.ask(where)
        assert none == several
        assert none.endswith("/background")
        assert "/agent-" in none


def test_calls_inside_one_another_are_one_that_runs(session: Session) -> None:
    with (
        made_by("first", QueueThread, stopped=True) as helper,
        agentcgroup.call("outer"),
        agentcgroup.call("inner"),
    ):
        inside = helper.ask(where)
    record = session.records[-2]
    assert record.tool == "inner"
    assert record.cgroup is not None
    assert inside.endswith(record.cgroup.partition("/agentcgroup")[2])


@pytest.mark.parametrize("kind", [QueueThread, TaskQueue])
def test_a_call_that_a_helper_opens_stands_for_itself(session: Session, kind: Any) -> None:
    def opens() -> tuple[object, str]:
        outside = agentcgroup.current_call()
        with agentcgroup.call("inside"):
            return outside, where()

    with made_by("first", kind, stopped=True) as helper:
        assert helper.ask(opens)[0] is None
    record = session.records[-1]
    assert (record.tool, record.parent_id, record.outcome) == ("inside", None, "ok")


def test_a_stopped_body_in_a_thread_starts_nothing_more(session: Session) -> None:
    """Its future is cancelled with the call; the thread goes on with its next command."""
    refused: list[Exception] = []
    goes_on, done = threading.Event(), threading.Event()

    def body() -> None:
        subprocess.run(["sleep", "60"])
        goes_on.wait(SOON)
        for start in (where, opens, in_another_pool):
            try:
                start()
            except LimitExceeded as error:
                refused.append(error)
        done.set()

    def opens() -> None:
        with agentcgroup.call("inside"):
            where()

    def in_another_pool() -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(where).result()

    async def main() -> None:
        async with agentcgroup.call("slow", timeout="0.5s"):
            await asyncio.to_thread(body)

    def run() -> None:
        with pytest.raises(LimitExceeded, match="time limit"):
            asyncio.run(main())

    thread = threading.Thread(target=run)
    thread.start()
    while not session.records:
        goes_on.wait(0.05)
    with agentcgroup.call("other"):  # it is not this one's either
        goes_on.set()
        assert done.wait(SOON)
    thread.join()
    assert len(refused) == 3
    assert {record.tool: record.outcome for record in session.records}["other"] == "ok"


@pytest.mark.parametrize("method", ["apply_async", "map_async", "imap", "imap_unordered"])
def test_a_work_item_of_a_thread_pool_belongs_to_the_call_that_gave_it(
    session: Session, method: str
) -> None:
    def give(pool: ThreadPool) -> str:
        if method == "apply_async":
            return pool.apply_async(func=where).get()
        done = getattr(pool, method)(lambda _: where(), [0])
        return str(next(iter(done.get() if method == "map_async" else done)))

    def born_in(pool: ThreadPool, tool: str) -> bool:
        with agentcgroup.call(tool) as call:
            text = give(pool)
            return f"/{call.contained.group.path.rpartition('/')[2]}" in text  # type: ignore[union-attr]

    with agentcgroup.call("first"):
        pool = ThreadPool(1)
    with pool, agentcgroup.call("beside"):
        scope.current.set(None)
        assert born_in(pool, "second")
        assert born_in(pool, "third")


def test_a_cancelled_place_stops_no_call_of_a_helper_that_outlives_it(session: Session) -> None:
    """A request is cancelled; the worker that its tool has started serves later requests."""
    helpers: list[QueueThread] = []

    async def request() -> None:
        with agentcgroup.call("starts"):
            helpers.append(QueueThread())
        await asyncio.sleep(60)

    async def main() -> None:
        task = asyncio.create_task(cancelling(request))
        while not helpers:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    def later() -> str:
        with agentcgroup.call("later"):
            return where()

    asyncio.run(main())
    with contextlib.closing(helpers[0]) as helper:
        assert helper.ask(later).endswith("/call-1")
    assert session.records[-1].outcome == "ok"
