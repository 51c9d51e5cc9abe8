"""Records come in the order in which calls ended, wherever and whenever the calls are settled."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import agentcgroup
from agentcgroup import CallRecord, LimitExceeded, Session
from agentcgroup.calls.call import Call
from agentcgroup.records import ordering
from agentcgroup.records.bus import RecordBus
from tests.support.processes import until
from tests.unit.records.test_bus import Entry, Seen


class Recorder:
    """The records of a session by all three ways."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.session: Session = agentcgroup.register("langchain", config={"records": str(path)})
        self.called_back: list[CallRecord] = []
        self.session.on_record(self.called_back.append)

    def ids(self) -> list[str]:
        """Return the ids in their order, which is the same by each way."""
        ids = [record.id for record in self.session.records]
        assert [record.id for record in self.called_back] == ids
        assert [json.loads(line)["id"] for line in self.path.read_text().splitlines()] == ids
        return ids


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    yield Recorder(tmp_path / "calls.jsonl")
    agentcgroup.unregister()


def _inline() -> None:
    """Settled by the tool's own thread, at once."""


def _process() -> None:
    """Settled by the thread for deferred jobs, later."""
    subprocess.run(["true"], check=True)


def _timeout() -> None:
    """Settled by the tool's own thread, since its answer carries its figures."""
    subprocess.run(["sleep", "60"], check=False)


def _leftover() -> None:
    """Settled by the tool's own thread, too."""
    subprocess.Popen(["sleep", "60"])


_BODIES: list[tuple[Callable[[], None], str]] = [
    (_inline, "60s"),
    (_process, "60s"),
    (_timeout, "0.05s"),
    (_leftover, "60s"),
]


def _run(body: Callable[[], None], timeout: str) -> Call:
    try:
        with agentcgroup.call(body.__name__, timeout=timeout) as call:
            body()
    except LimitExceeded:
        pass
    return call


def _by_end(calls: list[Call]) -> list[str]:
    ends = [(call.ended, call.id) for call in calls]
    assert all(end is not None for end, _ in ends)
    return [name for _, name in sorted(ends)]


@pytest.mark.parametrize("seed", range(3))
def test_a_mix_of_calls_in_one_thread(recorder: Recorder, seed: int) -> None:
    chosen = random.Random(seed)
    calls = [_run(*chosen.choice(_BODIES)) for _ in range(20)]
    assert recorder.ids() == [call.id for call in calls] == _by_end(calls)


def test_a_call_inside_another_comes_first(recorder: Recorder) -> None:
    with agentcgroup.call("outer") as outer:
        _process()
        inner = [_run(body, timeout) for body, timeout in _BODIES]
    assert recorder.ids() == [*(call.id for call in inner), outer.id]


def test_a_mix_of_calls_in_many_threads(recorder: Recorder) -> None:
    """The interpreter switches threads wherever it can, also while the end of a call is taken."""
    calls: list[Call] = []

    def work(seed: int) -> None:
        chosen = random.Random(seed)
        for _ in range(12):
            calls.append(_run(*chosen.choice(_BODIES)))
            calls.extend(_run(_inline, "60s") for _ in range(30))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert recorder.ids() == _by_end(calls)


def test_a_mix_of_async_calls(recorder: Recorder) -> None:
    calls: list[Call] = []

    async def work(number: int) -> None:
        async with agentcgroup.call("tool", timeout="0.2s" if number % 3 == 0 else "60s") as call:
            calls.append(call)
            if number % 3 == 1:
                await (await asyncio.create_subprocess_exec("true")).wait()
            await asyncio.sleep(60 if number % 3 == 0 else number / 100)

    async def main() -> None:
        await asyncio.gather(*map(work, range(12)), return_exceptions=True)

    asyncio.run(main())
    ids = recorder.ids()
    assert ids == _by_end(calls)
    assert {record.outcome for record in recorder.session.records} == {"ok", "timeout"}


def test_records_that_others_read_meanwhile_are_in_order_each_time(recorder: Recorder) -> None:
    over = threading.Event()
    thread = threading.Thread(target=lambda: [_run(_process, "60s") for _ in range(30)])
    looks: list[list[float]] = []

    def look() -> None:
        while not over.is_set():
            looks.append([one.started_at + one.duration_s for one in recorder.session.records])

    looking = threading.Thread(target=look)
    looking.start()
    thread.start()
    thread.join()
    over.set()
    looking.join()
    assert len(recorder.ids()) == 30
    assert looks
    for ends in looks:
        assert ends == sorted(ends)


@pytest.fixture
def bus() -> Iterator[RecordBus]:
    bus = RecordBus()
    yield bus
    bus.close(10)


class Unsettled(Entry):
    settled = False


def test_a_call_that_is_not_settled_keeps_later_ones_waiting(bus: RecordBus) -> None:
    seen = Seen()
    bus.subscribe(seen)
    first, second = Unsettled("first"), Entry("second")
    bus.put(first)
    bus.put(second)
    assert not bus.drain(0.3)
    assert seen.tools == []
    first.settled = True
    assert bus.drain(10)
    assert seen.tools == ["first", "second"]


def test_a_call_that_is_never_settled_stalls_the_others_for_a_bounded_time(
    bus: RecordBus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ordering, "_SETTLE_WAIT", 0.3)
    seen = Seen()
    bus.subscribe(seen)
    stuck = [Unsettled("stuck 1"), Unsettled("stuck 2")]
    for entry in (*stuck, Entry("next")):
        bus.put(entry)
    assert until(lambda: seen.tools == ["next"], timeout=10)
    assert bus.drain(10)
    assert caplog.text.count("has no complete record yet") == 1
    stuck[0].settled = True
    assert until(lambda: seen.tools == ["next", "stuck 1"], timeout=10)
    bus.close(10)
    assert seen.closed


def test_the_order_is_that_of_the_ends_not_of_the_arrivals(bus: RecordBus) -> None:
    """A thread may lose the processor between queueing its call and taking the time of its end."""
    seen = Seen()
    bus.subscribe(seen)
    preempted, other = Entry("preempted"), Entry("other")
    preempted.ended = None
    bus.put(preempted)
    bus.put(other)
    time.sleep(0.2)
    assert seen.tools == []  # the end of the first may be read, and not yet be written
    preempted.ended = (other.ended or 0) - 0.001
    assert bus.drain(10)
    assert seen.tools == ["preempted", "other"]


def test_a_call_whose_end_is_never_taken_stalls_the_others_for_a_bounded_time(
    bus: RecordBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ordering, "_END_WAIT", 0.2)
    seen = Seen()
    bus.subscribe(seen)
    lost = Entry("lost")
    lost.ended = None
    bus.put(lost)
    bus.put(Entry("next"))
    assert until(lambda: seen.tools == ["next"], timeout=10)
