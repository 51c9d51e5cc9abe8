"""The BCC backend, on kernels whose headers are installed.

Its start takes half a minute in an emulated machine, so tests share one monitor where they can.
"""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

import agentcgroup
from agentcgroup import Session
from tests.cases import escapes as escape_cases
from tests.cases.escapes import WAYS, escapes
from tests.kernel.support import MiB, record_tells_what_ran, registering
from tests.support.helpers import overwhelmed
from tests.support.monitored import patient
from tests.support.processes import SOON

__all__ = ["escapes", "patient"]

pytestmark = pytest.mark.timeout(600)

#: Escapes of each way; all sources share the return of escapes, only their events differ.
_ROUNDS = 5


def _watched(register: Callable[..., Session], **monitor: str) -> Session:
    session = register(monitor={"backend": "bcc", **monitor})
    session._services.monitor.start()
    assert session._services.monitor.wait(400), session._services.monitor.refused
    assert session._services.monitor.source == "bcc"
    return session


# These two come before the session that the others share: there is one at a time.
def test_a_process_that_leaves_ends_the_call_with_escape_kill(
    registered: Callable[..., Session],
) -> None:
    record = escape_cases.left_and_the_call_ends(_watched(registered, escape="kill"))
    assert (record.outcome, record.reason, record.escapes) == ("killed", "escape", 1)


def test_a_record_has_no_processes_where_events_are_missing(
    registered: Callable[..., Session],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    overwhelmed(lambda: _watched(registered), monkeypatch, caplog)


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with registering() as register:
        yield _watched(register)


def test_a_record_has_what_ran_and_how_it_ended(session: Session) -> None:
    record_tells_what_ran(session)


def test_threads_are_no_processes_and_the_process_ends_once(session: Session) -> None:
    """The first thread ends before the others, and no thread exits with the process' status."""
    code = """
import ctypes, os, threading, time
for _ in range(4): threading.Thread(target=time.sleep, args=(60,)).start()
threading.Timer(0.5, os._exit, (7,)).start()
ctypes.CDLL(None).pthread_exit(None)
"""
    with agentcgroup.call("tool"):
        subprocess.run([sys.executable, "-S", "-c", code])
    record = session.records[-1]
    assert record.processes_started == 1
    assert record.programs is not None
    assert [(one.program, one.exit_code) for one in record.programs] == [(sys.executable, 7)]


def test_a_stream_has_each_event_and_the_oom_kill(session: Session) -> None:
    with session.stream() as stream:
        with pytest.raises(agentcgroup.LimitExceeded), agentcgroup.call("tool", memory_max="32M"):
            subprocess.run([sys.executable, "-S", "-c", f"bytearray(b'x') * {128 * MiB}"])
        assert session.records[-1].outcome == "oom"
        events = []
        while (event := stream.get(SOON)) is not None:
            events.append(event)
            if event.kind == "exit":
                break
    events += stream  # an event behind the exit would be a fault
    assert [event.kind for event in events] == ["fork", "exec", "oom", "exit"]
    assert {event.pid for event in events} == {events[0].pid}
    assert (events[1].program, events[-1].signal) == (sys.executable, signal.SIGKILL)


@pytest.mark.parametrize("way", WAYS)
def test_a_process_born_outside_is_moved_in(
    session: Session, escapes: ctypes.PyDLL, way: str
) -> None:
    escape_cases.born_outside(session, escapes, way, _ROUNDS)


def test_a_process_that_leaves_is_moved_back(session: Session) -> None:
    escape_cases.left(session, _ROUNDS)
