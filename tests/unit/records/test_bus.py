"""The bus between finished calls and the observers of their records."""

from __future__ import annotations

import functools
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

import agentcgroup
from agentcgroup.records import subscription
from agentcgroup.records.bus import FLUSH_INTERVAL, QUEUE_SIZE, RecordBus
from agentcgroup.records.record import CallRecord
from tests.support.processes import until


class Entry:
    """What the bus takes; remembers the thread on which the record was made."""

    settled = True

    def __init__(self, tool: str = "tool") -> None:
        self.tool = tool
        self.ended: float | None = time.monotonic()
        self.made_on: threading.Thread | None = None

    @property
    def record(self) -> CallRecord:
        self.made_on = threading.current_thread()
        return CallRecord(
            id=self.tool,
            parent_id=None,
            framework="python",
            agent=None,
            tool=self.tool,
            tool_call_id=None,
            started_at=0.0,
            duration_s=0.0,
            outcome="ok",
            reason=None,
            limits={},
        )


class Unmade(Entry):
    @property
    def record(self) -> CallRecord:
        raise RuntimeError("no record")


@dataclass
class Seen:
    """An observer with all methods."""

    name: str = "seen"
    tools: list[str] = field(default_factory=list)
    flushed: list[int] = field(default_factory=list)
    closed: int = 0

    def on_record(self, record: CallRecord) -> None:
        assert not self.closed
        self.tools.append(record.tool)

    def flush(self) -> None:
        self.flushed.append(len(self.tools))

    def close(self) -> None:
        self.closed += 1


class Stuck:
    """An observer whose `on_record` waits until the test is over."""

    name = "stuck"

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.release = threading.Event()
        self.tools: list[str] = []

    def on_record(self, record: CallRecord) -> None:
        self.entered.set()
        assert self.release.wait(60)
        self.tools.append(record.tool)


@pytest.fixture
def bus() -> Iterator[RecordBus]:
    bus = RecordBus()
    yield bus
    bus.close(10)


@pytest.fixture
def stuck() -> Iterator[Stuck]:
    stuck = Stuck()
    yield stuck
    stuck.release.set()


def _observer_threads() -> list[str]:
    return [one.name for one in threading.enumerate() if "-observer-" in one.name]


def _put(bus: RecordBus, number: int) -> list[str]:
    tools = [str(one) for one in range(number)]
    for tool in tools:
        bus.put(Entry(tool))
    return tools


def test_each_observer_gets_every_record_in_order(bus: RecordBus) -> None:
    first, second = Seen(), Seen()
    bus.subscribe(first)
    bus.subscribe(second)
    tools = _put(bus, 2_000)
    assert bus.drain(30)
    assert first.tools == second.tools == tools
    assert first.flushed[-1] == len(tools)


def test_threads_that_put_at_once_keep_their_own_order(bus: RecordBus) -> None:
    seen = Seen()
    bus.subscribe(seen)

    def work(name: str) -> None:
        for number in range(500):
            bus.put(Entry(f"{name} {number}"))

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bus.drain(30)
    assert len(seen.tools) == 2_000
    for name in "abcd":
        of_one = [tool for tool in seen.tools if tool.startswith(name)]
        assert of_one == [f"{name} {number}" for number in range(500)]


def test_the_record_is_made_on_the_observers_thread(bus: RecordBus) -> None:
    bus.subscribe(Seen())
    entry = Entry()
    bus.put(entry)
    assert bus.drain(10)
    assert entry.made_on is not None
    assert entry.made_on.name == "agentcgroup-observer-seen"
    assert entry.made_on.daemon


def test_a_record_that_cannot_be_made_is_no_fault_of_the_observer(
    bus: RecordBus, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Seen()
    bus.subscribe(seen)
    for _ in range(20):
        bus.put(Unmade())
    bus.put(Entry("last"))
    assert bus.drain(10)
    assert seen.tools == ["last"]
    assert "could not be made" in caplog.text


def test_a_record_comes_without_anybody_asking(bus: RecordBus) -> None:
    seen = Seen()
    bus.subscribe(seen)
    for tool in ("first", "second"):  # the second wakes the thread again
        bus.put(Entry(tool))
        assert until(lambda tool=tool: seen.tools[-1:] == [tool], timeout=10)


def test_an_observer_without_records_has_no_thread_and_is_closed() -> None:
    bus, seen, before = RecordBus(), Seen(), _observer_threads()
    bus.subscribe(seen)
    assert bus.drain(10)
    assert _observer_threads() == before
    bus.close(10)
    assert (seen.closed, seen.tools) == (1, [])


def test_entries_of_one_interval_are_one_batch(bus: RecordBus) -> None:
    """The thread wakes once for them, since it takes the interpreter's lock from the calls."""
    seen = Seen()
    bus.subscribe(seen)
    begin = time.monotonic()
    while time.monotonic() - begin < 0.5:
        bus.put(Entry())
        time.sleep(0.001)
    flushes = len(seen.flushed)
    assert 1 <= flushes <= (time.monotonic() - begin) / FLUSH_INTERVAL + 1


def _cost(bus: RecordBus) -> float:
    """Return the seconds of one put, the fastest of some rounds."""
    entry, rounds = Entry(), []
    for _ in range(9):
        begin = time.perf_counter()
        for _ in range(1_000):
            bus.put(entry)
        rounds.append(time.perf_counter() - begin)
    return min(rounds) / 1_000


def test_a_put_costs_next_to_nothing(stuck: Stuck) -> None:
    """Beside an inline call, which takes some 12 us."""
    bus = RecordBus()
    assert _cost(bus) < 0.3e-6
    bus.subscribe(stuck)
    bus.put(Entry())
    assert stuck.entered.wait(10)
    assert _cost(bus) < 2e-6
    stuck.release.set()
    bus.close(30)


def test_a_stuck_observer_delays_no_other(bus: RecordBus, stuck: Stuck) -> None:
    seen = Seen()
    bus.subscribe(stuck)
    bus.subscribe(seen)
    tools = _put(bus, 100)
    assert until(lambda: seen.tools == tools, timeout=10)
    assert stuck.tools == []
    stuck.release.set()
    assert bus.drain(10)
    assert stuck.tools == tools


def test_a_full_queue_drops_the_newest_and_counts(
    stuck: Stuck, caplog: pytest.LogCaptureFixture
) -> None:
    bus = RecordBus()
    bus.subscribe(stuck)
    bus.put(Entry("in hand"))
    assert stuck.entered.wait(10)
    tools = _put(bus, QUEUE_SIZE + 5)
    stuck.release.set()
    assert bus.drain(60)
    assert stuck.tools == ["in hand", *tools[:QUEUE_SIZE]]
    assert caplog.text.count("records are dropped: the observer stuck") == 1
    bus.close(10)
    assert caplog.text.count("5 records did not reach the observer stuck") == 1


class Faulty(Seen):
    """Raises in the named method, for the numbers (from 1) of its runs that are given."""

    def __init__(self, method: str, error: type[BaseException], runs: set[int] | None) -> None:
        super().__init__(f"faulty {method}")
        self.method, self.error, self.runs = method, error, runs
        self.ran = 0

    def _run(self, method: str) -> None:
        if method == self.method:
            self.ran += 1
            if self.runs is None or self.ran in self.runs:
                raise self.error(method)

    def on_record(self, record: CallRecord) -> None:
        self._run("on_record")
        super().on_record(record)

    def flush(self) -> None:
        self._run("flush")
        super().flush()


@pytest.mark.parametrize("method", ["on_record", "flush"])
@pytest.mark.parametrize("error", [RuntimeError, SystemExit, KeyboardInterrupt])
def test_an_observer_that_always_raises_is_switched_off(
    bus: RecordBus, method: str, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    faulty, seen = Faulty(method, error, runs=None), Seen()
    bus.subscribe(faulty)
    bus.subscribe(seen)
    tools = [str(number) for number in range(6)]
    for tool in tools:
        bus.put(Entry(tool))
        bus.drain(10)
    assert seen.tools == tools
    assert (faulty.ran, faulty.closed) == (3, 1)
    messages = [one.getMessage() for one in caplog.records]
    (off,) = [message for message in messages if "switched off" in message]
    assert f"observer faulty {method} is switched off after 3 faults" in off
    assert messages == [f"agentcgroup: {method} of the observer faulty {method} failed", off]


def test_faults_that_are_far_between_switch_an_observer_off_at_the_tenth(
    bus: RecordBus, caplog: pytest.LogCaptureFixture
) -> None:
    faulty = Faulty("on_record", RuntimeError, runs=set(range(1, 100, 2)))
    bus.subscribe(faulty)
    _put(bus, 60)
    assert bus.drain(10)
    assert faulty.ran == 19
    assert len(faulty.tools) == 9
    assert caplog.text.count("switched off after 10 faults") == 1


def test_two_faults_in_a_row_switch_nothing_off(bus: RecordBus) -> None:
    faulty = Faulty("on_record", RuntimeError, runs={1, 2, 4, 5})
    bus.subscribe(faulty)
    tools = _put(bus, 10)
    assert bus.drain(10)
    assert faulty.tools == [tool for tool in tools if tool not in "0134"]


def test_drain_returns_at_once_where_an_observer_calls_it(bus: RecordBus) -> None:
    took: list[float] = []

    def drains(record: CallRecord) -> None:
        begin = time.monotonic()
        assert not bus.drain(30)
        took.append(time.monotonic() - begin)

    bus.subscribe(drains)
    bus.subscribe(drains)
    bus.put(Entry())
    assert bus.drain(10)
    assert len(took) == 2
    assert max(took) < 5


def test_drain_is_bounded(bus: RecordBus, stuck: Stuck) -> None:
    bus.subscribe(stuck)
    bus.put(Entry())
    begin = time.monotonic()
    assert not bus.drain(0.2)
    assert 0.2 <= time.monotonic() - begin < 5


def test_close_delivers_flushes_and_closes() -> None:
    bus, seen = RecordBus(), Seen()
    bus.subscribe(seen)
    tools = _put(bus, 500)
    bus.close(30)
    assert (seen.tools, seen.flushed[-1], seen.closed) == (tools, 500, 1)
    bus.close(30)
    bus.put(Entry("late"))
    bus.subscribe(seen)
    bus.put(Entry("late"))
    assert bus.drain(10)
    assert (len(seen.tools), seen.closed) == (500, 1)
    assert until(lambda: "agentcgroup-observer-seen" not in _observer_threads(), timeout=10)


def test_close_is_bounded_and_logs_what_it_drops(
    stuck: Stuck, caplog: pytest.LogCaptureFixture
) -> None:
    bus, seen = RecordBus(), Seen()
    bus.subscribe(stuck)
    bus.subscribe(seen)
    bus.put(Entry("in hand"))
    assert stuck.entered.wait(10)
    _put(bus, 7)
    begin = time.monotonic()
    bus.close(0.3)
    assert 0.3 <= time.monotonic() - begin < 5
    assert (len(seen.tools), seen.closed) == (8, 1)
    assert "7 records did not reach the observer stuck" in caplog.text
    stuck.release.set()
    assert until(lambda: "agentcgroup-observer-stuck" not in _observer_threads(), timeout=10)
    assert stuck.tools == ["in hand"]


def test_an_observer_may_close_the_bus(bus: RecordBus) -> None:
    done = threading.Event()

    def closes(record: CallRecord) -> None:
        bus.close(30)
        done.set()

    bus.subscribe(closes)
    bus.put(Entry())
    assert done.wait(10)


def test_without_a_thread_close_delivers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.12 and later start no thread in an atexit handler."""

    def refuse(target: Callable[[], None], name: str) -> threading.Thread:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(subscription, "start_thread", refuse)
    bus, seen, slow = RecordBus(), Seen(), []
    bus.subscribe(seen)
    bus.subscribe(lambda record: (slow.append(record), time.sleep(0.2)))
    tools = _put(bus, 50)
    begin = time.monotonic()
    bus.close(0.5)
    assert time.monotonic() - begin < 5
    assert (seen.tools, seen.closed) == (tools, 1)
    assert 1 <= len(slow) < 10


class Functor:
    def __call__(self, record: CallRecord) -> None:
        raise RuntimeError

    def method(self, record: CallRecord) -> None:
        raise RuntimeError


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (Functor().method, f"{__name__}.Functor.method"),
        (Functor(), f"{__name__}.Functor"),
        (functools.partial(Functor.method, Functor()), f"{__name__}.Functor.method"),
        ([].pop, "list.pop"),
    ],
)
def test_a_function_is_reported_by_its_qualified_name(
    function: Callable[[CallRecord], None],
    name: str,
    bus: RecordBus,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bus.subscribe(function)
    _put(bus, 3)
    assert bus.drain(10)
    assert f"the observer {name} is switched off" in caplog.text


def test_a_forked_bus_has_the_observers_and_nothing_queued(
    bus: RecordBus, stuck: Stuck, caplog: pytest.LogCaptureFixture
) -> None:
    class Forked(Seen):
        def after_fork(self) -> None:
            self.tools.append("after fork")
            raise RuntimeError("logged")

    seen = Forked("forked")
    for observer in (stuck, seen):
        bus.subscribe(observer)
    bus.put(Entry("parent"))
    assert until(lambda: seen.tools == ["parent"], timeout=10)
    threads = _observer_threads()
    child = bus.forked()
    assert "forked failed in a fork" in caplog.text
    assert _observer_threads() == threads
    stuck.release.set()
    assert bus.drain(10)
    child.put(Entry("child"))
    child.close(10)
    assert seen.tools == ["parent", "after fork", "child"]
    assert stuck.tools == ["parent", "child"]


def test_an_observer_that_takes_a_second_delays_none_of_200_calls(
    caplog: pytest.LogCaptureFixture,
) -> None:
    over = threading.Event()
    began, seen = [], []

    def takes_a_second(record: CallRecord) -> None:
        began.append(record)
        over.wait(1)

    session = agentcgroup.register("langchain", config={})
    try:
        session.on_record(takes_a_second)
        session.on_record(seen.append)
        longest, begin = 0.0, time.monotonic()
        for number in range(200):
            before = time.monotonic()
            with agentcgroup.call(f"tool {number}"):
                if number % 20 == 0:
                    subprocess.run(["true"], check=True)
            longest = max(longest, time.monotonic() - before)
        took = time.monotonic() - begin
        assert len(session.records) == 200
        assert until(lambda: len(seen) == 200, timeout=10)
        assert len(began) < 30
    finally:
        over.set()
        agentcgroup.unregister()
    assert longest < 0.9  # one call alone would have to wait for a second
    assert took < 20
    assert len(began) == 200
    assert "observer" not in caplog.text


def test_a_look_at_the_records_waits_for_observers_but_not_for_a_stuck_one(stuck: Stuck) -> None:
    seen = []
    with agentcgroup.register("langchain", config={}) as session:
        session.on_record(seen.append)
        for number in range(1, 4):
            with agentcgroup.call("tool"):
                pass
            assert len(session.records) == len(seen) == number
        session.on_record(stuck.on_record)
        with agentcgroup.call("tool"):
            pass
        begin = time.monotonic()
        assert len(session.records) == 4
        assert 0.9 <= time.monotonic() - begin < 10
        stuck.release.set()
    agentcgroup.unregister()
    assert len(stuck.tools) == 1


def test_an_observer_that_raises_hurts_no_call(caplog: pytest.LogCaptureFixture) -> None:
    def export(record: CallRecord) -> None:
        raise ConnectionError("the collector is down")

    session = agentcgroup.register("langchain", config={})
    try:
        session.on_record(export)
        for _ in range(50):
            with agentcgroup.call("tool"):
                pass
            time.sleep(0.001)
        assert [record.outcome for record in session.records] == ["ok"] * 50
    finally:
        agentcgroup.unregister()
    assert caplog.text.count("export is switched off") == 1
    assert caplog.text.count("ConnectionError: the collector is down") == 1


#: A pre-fork server registers in the parent; each child goes on with the parent's callbacks.
_FORKS = """
import os, threading
import agentcgroup

seen = []
session = agentcgroup.register("langchain", config={})
session.on_record(lambda record: seen.append((record.tool, threading.current_thread().name)))
with agentcgroup.call("parent"):
    pass
if os.fork() == 0:
    assert not [one for one in threading.enumerate() if "-observer-" in one.name]
    del seen[:]
    with agentcgroup.call("child"):
        pass
    agentcgroup.unregister()
    print(*[tool for tool, _ in seen], flush=True)
    os._exit(0)
os.wait()
agentcgroup.unregister()
print(*[tool for tool, _ in seen])
"""


def test_a_forked_process_has_threads_and_records_of_its_own() -> None:
    done = subprocess.run([sys.executable, "-c", _FORKS], capture_output=True, text=True)
    assert (done.stdout.split(), done.returncode) == (["child", "parent"], 0), done.stderr


def test_at_exit_the_last_records_are_delivered() -> None:
    code = (
        "import agentcgroup\n"
        "agentcgroup.register('langchain', config={}).on_record(lambda one: print(one.tool))\n"
        "for tool in 'abc':\n"
        "    with agentcgroup.call(tool): pass\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout.split(), done.returncode) == (["a", "b", "c"], 0), done.stderr


def test_the_janitors_thread_runs_no_callback(caplog: pytest.LogCaptureFixture) -> None:
    """Nor does the tool's: callbacks have a thread of their own, whatever the call has done."""
    threads: set[str] = set()
    caplog.set_level(logging.WARNING)
    with agentcgroup.register("langchain", config={}) as session:
        session.on_record(lambda _: threads.add(threading.current_thread().name))
        with agentcgroup.call("nothing"):
            pass
        with agentcgroup.call("process"):
            subprocess.run(["true"], check=True)
    agentcgroup.unregister()
    (name,) = threads
    assert name.startswith("agentcgroup-observer-")
