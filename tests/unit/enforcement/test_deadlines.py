"""Deadlines: calls whose time is over are stopped, whatever they wait for."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context

import pytest

import agentcgroup
from agentcgroup import LimitExceeded, Session
from agentcgroup.calls import lifecycle
from agentcgroup.enforcement.deadlines import Deadlines
from agentcgroup.scope import current
from tests.support.processes import SOON, until


class _Stoppable:
    """Something with an end."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.stopped: str | None = None
        self.is_stopped, self.is_told = threading.Event(), threading.Event()

    def stop(self, reason: str) -> None:
        self.stopped = reason
        self.is_stopped.set()

    def tell_overdue(self) -> None:
        assert not self.is_told.is_set()
        self.is_told.set()


class _Faulty(_Stoppable):
    def stop(self, reason: str) -> None:
        raise OSError("no")


class _Running:
    """Begins what can be stopped, as a call does."""

    def __init__(self) -> None:
        self.running: set[_Stoppable] = set()
        self.deadlines = Deadlines(self.running, _Stoppable.tell_overdue)

    def begin(self, after: float, kind: type[_Stoppable] = _Stoppable) -> _Stoppable:
        one = kind(time.monotonic() + after)
        self.running.add(one)
        if one.deadline < self.deadlines.wakes_at:
            self.deadlines.wake(one.deadline)
        return one


@pytest.fixture
def calls() -> Iterator[_Running]:
    calls = _Running()
    yield calls
    calls.deadlines.close()


@pytest.fixture
def session() -> Iterator[Session]:
    yield agentcgroup.register("langchain", config={})
    agentcgroup.unregister()


def test_a_later_call_with_an_earlier_deadline_ends_in_time(calls: _Running) -> None:
    late = calls.begin(600)
    early = calls.begin(0.05)
    assert early.is_stopped.wait(SOON)
    assert early.stopped == "timeout"
    assert not late.is_stopped.is_set()


def test_calls_that_begin_while_the_thread_looks_are_seen(calls: _Running) -> None:
    def work() -> list[_Stoppable]:
        return [calls.begin(0.001 * number) for number in range(200)]

    with ThreadPoolExecutor(8) as pool:
        begun = [one for ones in [pool.submit(work) for _ in range(8)] for one in ones.result()]
    assert len(begun) == 1600
    assert all(one.is_stopped.wait(SOON) for one in begun)


def test_a_call_that_has_ended_is_left_alone(calls: _Running) -> None:
    ended, other = calls.begin(1), calls.begin(1.05)
    calls.running.discard(ended)
    assert other.is_stopped.wait(SOON)
    assert not ended.is_stopped.is_set()
    calls.running.discard(other)
    assert until(lambda: calls.deadlines.wakes_at == math.inf, timeout=SOON)


def test_what_still_runs_two_seconds_later_is_reported_once(calls: _Running) -> None:
    one = calls.begin(0.01)
    assert one.is_told.wait(SOON)
    other = calls.begin(0.01)  # the thread looks at the first one, too
    assert other.is_told.wait(SOON)


def test_a_call_that_cannot_be_stopped_keeps_no_other_from_its_end(calls: _Running) -> None:
    begun = [calls.begin(0.02, kind) for kind in (_Faulty, _Stoppable, _Faulty, _Stoppable)]
    assert all(one.is_stopped.wait(SOON) for one in begun if type(one) is _Stoppable)


def test_a_deadline_that_moves_is_kept(calls: _Running) -> None:
    class Moving(_Stoppable):
        def stop(self, reason: str) -> None:
            if moved:
                super().stop(reason)
            else:
                moved.append(self.deadline)
                self.deadline += 0.5

    moved: list[float] = []
    one = calls.begin(0.01, Moving)
    assert one.is_stopped.wait(SOON)
    assert time.monotonic() >= moved[0] + 0.5


def test_a_child_that_is_refused_before_the_thread_wakes_saves_no_other(session: Session) -> None:
    """Both see that the time is over; the one that is first must not keep the other from it."""
    call = lifecycle.open_call(
        session._services, "python", None, "late", overrides={"timeout": "0.2s"}
    )
    token = current.set(call)  # it has not begun, so that the thread does not look at it
    sleeper = subprocess.Popen(["sleep", "60"])
    time.sleep(0.3)
    with pytest.raises(LimitExceeded):
        subprocess.run(["true"], check=True)
    call.stop("timeout")  # as the thread of Deadlines does when it wakes
    assert sleeper.wait(SOON / 2) == -signal.SIGKILL
    current.reset(token)
    lifecycle.finish(call)
    assert [record.outcome for record in session.records] == ["timeout"]


# -- calls that start no process of their own ----------------------------------------------------


def _lock() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire(timeout=3)


def _queue() -> None:
    threading.Event().wait(3)


def _socket() -> None:
    one, other = socket.socketpair()
    with one, other:
        one.settimeout(3)
        one.recv(1)


def _computation() -> None:
    over = time.monotonic() + 3
    while time.monotonic() < over:
        pass


@pytest.mark.parametrize("wait", [_lock, _queue, _computation])
def test_a_sync_call_that_cannot_be_ended_is_reported(
    session: Session, caplog: pytest.LogCaptureFixture, wait: Callable[[], None]
) -> None:
    for _ in range(2):
        with agentcgroup.call(wait.__name__, timeout="0.2s"):
            wait()
    for record in session.records:
        assert (record.outcome, record.reason, record.cgroup) == ("timeout", "overdue", None)
    (told,) = [one for one in caplog.records if "past its timeout" in one.message]
    assert told.levelno == logging.WARNING
    assert f"tool '{wait.__name__}' still runs after 2." in told.message
    assert f"in {wait.__name__}\n" in told.message  # a line of the stack


def test_an_error_of_a_sync_call_past_its_deadline_stands(session: Session) -> None:
    with pytest.raises(TimeoutError), agentcgroup.call("recv", timeout="0.2s"):
        _socket()
    (record,) = session.records
    assert (record.outcome, record.reason) == ("timeout", "overdue")


def test_a_sync_call_past_its_deadline_starts_no_process(session: Session) -> None:
    def late() -> None:
        time.sleep(0.4)
        subprocess.run(["true"], check=True)

    with pytest.raises(LimitExceeded), agentcgroup.call("late", timeout="0.2s"):
        late()
    (record,) = session.records
    assert (record.outcome, record.reason) == ("timeout", "timeout")


def test_a_sync_call_inside_one_that_is_over_is_ended(session: Session) -> None:
    """A process of a nested call is what the outer call waits for."""

    @agentcgroup.isolate
    def inner() -> None:
        subprocess.run(["sleep", "60"], check=True)

    begin = time.monotonic()
    with pytest.raises(LimitExceeded), agentcgroup.call("outer", timeout="0.5s"):
        inner()
    assert time.monotonic() - begin < SOON
    assert {record.tool: record.outcome for record in session.records}["outer"] == "timeout"


def _sleep_in_pool(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def test_an_async_call_that_waits_for_helpers_of_the_app_is_ended(session: Session) -> None:
    """A pool, a thread and an event that never comes: none of them is a process of the call."""

    async def pool() -> None:
        workers.apply(_sleep_in_pool, (0,))
        while not (result := workers.apply_async(_sleep_in_pool, (60,))).ready():
            await asyncio.sleep(30)
            result.get()

    async def thread() -> None:
        await asyncio.to_thread(released.wait, SOON)

    async def event() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        for wait in (pool, thread, event):
            with pytest.raises(LimitExceeded):
                async with agentcgroup.call(wait.__name__, timeout="0.5s"):
                    await wait()
        released.set()

    released = threading.Event()
    with get_context("spawn").Pool(1) as workers:
        workers.apply(_sleep_in_pool, (0,))
        begin = time.monotonic()
        asyncio.run(main())
        assert time.monotonic() - begin < SOON
    assert [record.outcome for record in session.records] == ["timeout"] * 3
    assert [record.reason for record in session.records] == ["timeout"] * 3


def test_an_isolated_call_that_waits_for_nothing_of_its_own_is_ended(session: Session) -> None:
    @agentcgroup.isolate("waits", timeout="1s", isolation="process")
    def waits() -> None:
        threading.Event().wait()

    begin = time.monotonic()
    with pytest.raises(LimitExceeded):
        waits()
    assert time.monotonic() - begin < SOON
    (record,) = session.records
    assert (record.outcome, record.reason) == ("timeout", "timeout")
