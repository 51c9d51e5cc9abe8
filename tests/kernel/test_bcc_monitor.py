"""The BCC backend, on kernels whose headers are there to compile against.

It takes half a minute in an emulated machine, so all share one monitor where they can.
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

#: Of each way; the escape net is the same for all sources, only what feeds it is not.
_ROUNDS = 5


def _watched(register: Callable[..., Session], **monitor: str) -> Session:
    session = register(monitor={"backend": "bcc", **monitor})
    session._services.monitor.start()
    assert session._services.monitor.wait(400), session._services.monitor.refused
    assert session._services.monitor.source == "bcc"
    return session


# These two come before the session that the others share: there is one at a time.
def test_what_leaves_ends_the_call_where_that_is_asked(registered: Callable[..., Session]) -> None:
    record = escape_cases.left_and_the_call_ends(_watched(registered, escape="kill"))
    assert (record.outcome, record.reason, record.escapes) == ("killed", "escape", 1)


def test_what_a_helper_cannot_keep_up_with_is_not_told(
    registered: Callable[..., Session],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    overwhelmed(lambda: _watched(registered), monkeypatch, caplog)


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with registering() as register:
        yield _watched(register)


def test_a_record_tells_what_ran_and_how_it_ended(session: Session) -> None:
    record_tells_what_ran(session)


def test_threads_are_no_processes_and_one_end_is_told(session: Session) -> None:
    """The first thread ends before the others, and none of them with the status of all."""
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


def test_a_stream_tells_each_of_it_live_and_who_was_killed_for_memory(session: Session) -> None:
    with session.stream() as stream:
        with pytest.raises(agentcgroup.LimitExceeded), agentcgroup.call("tool", memory_max="32M"):
            subprocess.run([sys.executable, "-S", "-c", f"bytearray(b'x') * {128 * MiB}"])
        assert session.records[-1].outcome == "oom"
        told = []
        while (event := stream.get(SOON)) is not None:
            told.append(event)
            if event.kind == "exit":
                break
    told += stream  # what else came, where only this may
    assert [event.kind for event in told] == ["fork", "exec", "oom", "exit"]
    assert {event.pid for event in told} == {told[0].pid}
    assert (told[1].program, told[-1].signal) == (sys.executable, signal.SIGKILL)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_born_outside_is_brought_in(
    session: Session, escapes: ctypes.PyDLL, way: str
) -> None:
    escape_cases.born_outside(session, escapes, way, _ROUNDS)


def test_what_leaves_is_brought_back(session: Session) -> None:
    escape_cases.left(session, _ROUNDS)
