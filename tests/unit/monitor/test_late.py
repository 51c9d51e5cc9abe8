"""Calls that begin before the monitor is ready: they wait where it is demanded."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator

import pytest

import agentcgroup
from agentcgroup import CallRecord, Session
from agentcgroup.monitor import connection
from tests.support.monitored import backend, patient
from tests.support.processes import SOON

__all__ = ["backend", "patient"]


@pytest.fixture(autouse=True)
def unregistered() -> Iterator[None]:
    yield
    agentcgroup.unregister()


@pytest.fixture(autouse=True)
def waits_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine may be busy."""
    monkeypatch.setattr(connection, "READY_WAIT", SOON)


def _register(backend: str) -> Session:
    return agentcgroup.register("langchain", config={"monitor": {"backend": backend}})


def _figures(record: CallRecord) -> tuple[object, ...]:
    return record.monitor, record.processes_started, record.programs, record.escapes


def test_the_first_call_is_watched_where_a_backend_is_named(backend: str) -> None:
    session = _register(backend)
    with agentcgroup.call("tool"):
        subprocess.run(["true"], check=True)
    record = session.records[-1]
    assert (record.monitor, record.processes_started, record.escapes) == (backend, 1, 0)
    assert record.duration_s < SOON / 2  # what it has waited is not its own


def test_the_first_async_call_is_watched_and_the_event_loop_runs_on(backend: str) -> None:
    session = _register(backend)
    monitor = session._services.monitor
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while monitor.awaited:
            ticks += 1
            await asyncio.sleep(0.001)

    async def main() -> None:
        ticking = asyncio.create_task(tick())
        async with agentcgroup.call("tool", timeout="60s"):
            process = await asyncio.create_subprocess_exec("true")
            await process.wait()
        await ticking

    asyncio.run(main())
    assert session.records[-1].processes_started == 1
    assert ticks > 1


def test_the_first_isolated_call_is_watched(backend: str) -> None:
    session = _register(backend)
    assert agentcgroup.isolate(isolation="process")(os.getpid)() != os.getpid()
    assert session.records[-1].monitor == backend


def test_the_first_call_of_a_forked_worker_is_watched(backend: str) -> None:
    """A pre-fork server registers, and forks before its first call."""
    _register(backend)
    child = os.fork()
    if child == 0:
        started = None
        try:
            with agentcgroup.call("tool"):
                subprocess.run(["true"], check=True)
            session = agentcgroup.register()
            started = session.records[-1].processes_started
            session.close()
        finally:
            os._exit(0 if started == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_call_whose_coroutine_is_cancelled_meanwhile_ends() -> None:
    session = _register("libbpf")
    assert session._services.monitor.awaited  # its helper has just been started

    async def enter() -> None:
        async with agentcgroup.call("tool"):
            pass

    async def main() -> None:
        task = asyncio.create_task(enter())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert [record.outcome for record in session.records] == ["cancelled"]


def test_where_auto_leaves_it_open_no_call_waits_and_none_is_not_zero() -> None:
    session = _register("auto")
    monitor = session._services.monitor
    assert monitor.state == "new"
    with agentcgroup.call("first"):
        subprocess.run(["true"], check=True)
    with agentcgroup.call("begins before and starts processes after"):
        monitor.wait(SOON)
        subprocess.run(["true"], check=True)
    assert monitor.state == "on"
    with agentcgroup.call("third"):
        subprocess.run(["true"], check=True)
    first, second, third = session.records
    assert _figures(first) == (None, None, None, None)
    if second.processes_started is not None:  # the monitor was ready when the first had ended
        assert second.processes_started == 1
    assert third.processes_started == 1


def test_a_call_that_begins_before_the_monitor_is_ready_has_no_figures() -> None:
    session = _register("auto")
    with agentcgroup.call("begins before"):
        assert session._services.monitor.wait(SOON)
        subprocess.run(["true"], check=True)
    assert _figures(session.records[-1]) == (None, None, None, None)


def test_the_wait_is_bounded_and_what_is_not_watched_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connection, "READY_WAIT", 0)
    session = _register("libbpf")
    for _ in range(2):
        with agentcgroup.call("tool"):
            subprocess.run(["true"], check=True)
            session._services.monitor.wait(SOON)
    assert _figures(session.records[0]) == (None, None, None, None)
    assert session.records[1].processes_started == 1
    assert caplog.text.count("the monitor was not ready when a call began") == 1


def test_a_demanded_monitor_that_does_not_work_here_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """There is no BCC here; a call runs without waiting for the whole bound."""
    session = _register("bcc")
    with agentcgroup.call("tool"):
        subprocess.run(["true"], check=True)
    assert _figures(session.records[-1]) == (None, None, None, None)
    assert "there is no monitor: bcc: " in caplog.text
