"""Deadlines: calls whose time is over are stopped."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

import agentcgroup
from agentcgroup import LimitExceeded, Session
from agentcgroup.calls import lifecycle
from agentcgroup.enforcement.deadlines import Deadlines
from agentcgroup.scope import current
from tests.support.processes import SOON


class _Stopped(threading.Event):
    """Something with an end."""

    def stop(self, reason: str) -> None:
        assert reason == "timeout"
        self.set()


@pytest.fixture
def deadlines() -> Iterator[Deadlines]:
    deadlines = Deadlines()
    yield deadlines
    deadlines.close()


@pytest.fixture
def session() -> Iterator[Session]:
    yield agentcgroup.register("langchain", config={})
    agentcgroup.unregister()


def test_an_older_call_with_a_later_first_child_ends_in_time(
    deadlines: Deadlines,
) -> None:
    young, old = _Stopped(), _Stopped()
    now = time.monotonic()
    deadlines.arm(young, now + 600)
    deadlines.arm(old, now + 0.05)
    assert old.wait(SOON)
    assert not young.is_set()


def test_a_call_that_has_ended_is_left_alone(deadlines: Deadlines) -> None:
    ended, other = _Stopped(), _Stopped()
    now = time.monotonic()
    deadlines.arm(ended, now + 3)  # disarmed by then, whoever else is on this machine
    deadlines.arm(other, now + 3.05)
    deadlines.disarm(ended)
    assert other.wait(SOON)
    assert not ended.is_set()


def test_a_child_that_is_refused_before_the_thread_wakes_saves_no_other(session: Session) -> None:
    """Both see that the time is over; the one that is first must not keep the other from it."""
    call = lifecycle.open_call(
        session._services, "python", None, "late", overrides={"timeout": "0.2s"}
    )
    token = current.set(call)
    sleeper = subprocess.Popen(["sleep", "60"])
    session._services.deadlines.disarm(call)
    time.sleep(0.3)
    with pytest.raises(LimitExceeded):
        subprocess.run(["true"], check=True)
    call.stop("timeout")  # as the thread of Deadlines does when it wakes
    assert sleeper.wait(SOON / 2) == -signal.SIGKILL
    current.reset(token)
    lifecycle.finish(call)
    assert [record.outcome for record in session.records] == ["timeout"]
