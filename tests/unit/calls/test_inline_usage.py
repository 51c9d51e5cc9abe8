"""What the record says of a tool that ran in the agent's own process."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

import agentcgroup
from agentcgroup import CallRecord, Session
from agentcgroup.calls import lifecycle

M = 1024**2


@pytest.fixture
def session() -> Iterator[Session]:
    session = agentcgroup.register("langchain", config={})
    yield session
    agentcgroup.unregister()


def burn(seconds: float) -> None:
    """Use so much CPU time; of that the last timer tick, 10 ms at the most, may not be told."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def last(session: Session) -> CallRecord:
    return session.records[-1]


def test_cpu_time_is_that_of_the_tools_thread(session: Session) -> None:
    with agentcgroup.call("busy"):
        burn(0.1)
    with agentcgroup.call("waits"):
        other = threading.Thread(target=burn, args=(0.1,))
        other.start()
        other.join()
    busy, waits = session.records
    assert busy.thread_cpu_s is not None
    assert waits.thread_cpu_s is not None
    assert busy.thread_cpu_s >= 0.08
    assert waits.thread_cpu_s < 0.05


_GROWS = """
import sys, time
if sys.argv[1] == "without":
    sys.modules["agentcgroup._native"] = None
import agentcgroup
session = agentcgroup.register(config={})
for size in (64, 32):
    with agentcgroup.call("grows"):
        bytearray(size << 20)
with agentcgroup.call("busy"):
    end = time.thread_time() + 0.1
    while time.thread_time() < end:
        pass
assert session.records[-1].thread_cpu_s >= 0.08
print(*[record.memory_growth_bytes for record in session.records[:2]])
"""


@pytest.mark.parametrize("extension", ["with", "without"])
def test_memory_growth_is_that_of_the_peak(extension: str) -> None:
    """In a process of its own: a peak is for life, and outlives even the exec that starts it."""
    done = subprocess.run(
        ["/bin/sh", "-c", '"$0" -c "$1" "$2" && true', sys.executable, _GROWS, extension],
        capture_output=True,
        text=True,
        check=True,
    )
    first, second = map(int, done.stdout.split())
    assert first > 60 * M
    assert second < 8 * M


def test_a_tool_that_raises_has_its_figures_too(session: Session) -> None:
    @agentcgroup.isolate
    def fails() -> float:
        burn(0.05)
        return 1 / 0

    with pytest.raises(ZeroDivisionError):
        fails()
    record = last(session)
    assert record.outcome == "error"
    assert record.thread_cpu_s is not None
    assert record.thread_cpu_s >= 0.03


def test_an_adapters_sync_call_has_them(session: Session) -> None:
    opened = lifecycle.open_call(session._services, "langchain", None, "busy")
    lifecycle.run(opened, lambda _record, result, _error: result, lambda: burn(0.05))
    record = last(session)
    assert record.thread_cpu_s is not None
    assert record.thread_cpu_s >= 0.03
    assert record.to_dict()["memory_growth_bytes"] is not None


def test_an_async_call_shares_its_thread_and_has_none(session: Session) -> None:
    async def main() -> None:
        async with agentcgroup.call("async"):
            burn(0.01)

    asyncio.run(main())
    assert last(session).thread_cpu_s is None
    assert last(session).memory_growth_bytes is None


def test_a_block_that_another_thread_ends_has_none(session: Session) -> None:
    context = contextvars.copy_context()
    block = agentcgroup.call("wanders")
    context.run(block.__enter__)
    thread = threading.Thread(target=context.run, args=(block.__exit__, None, None, None))
    thread.start()
    thread.join()
    assert last(session).outcome == "ok"
    assert last(session).thread_cpu_s is None
