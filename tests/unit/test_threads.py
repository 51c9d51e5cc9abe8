"""Threads, events and waits of this package, also in programs that replace those of Python."""

from __future__ import annotations

import contextvars
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from agentcgroup import threads
from tests.support.processes import until

_CASE = Path(__file__).parents[1] / "cases" / "patched.py"


@pytest.mark.parametrize("order", ["before", "after", "later"])
@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_a_patch_at_any_time_changes_nothing(library: str, order: str) -> None:
    """Before `register`, after it (as `agentcgroup run -- gunicorn -k gevent`), and mid-way."""
    case = [sys.executable, str(_CASE), library, order]
    done = subprocess.run(case, capture_output=True, text=True, timeout=120)
    assert done.stdout == "held\n", done.stderr


def test_an_event_wakes_all_who_wait() -> None:
    event, woken = threads.Event(), list[bool]()
    waiting = [threads.start_thread(lambda: woken.append(event.wait(30)), "t") for _ in range(5)]
    time.sleep(0.05)
    assert (woken, event.is_set()) == ([], False)
    event.set()
    for one in waiting:
        one.join(30)
    assert woken == [True] * 5
    assert event.wait()
    event.clear()
    assert not event.wait(0)
    assert not event.wait(0.01)


def test_no_wake_up_is_lost() -> None:
    """One thread sets what the other waits for and clears, as often as they can."""
    ping, pong = threads.Event(), threads.Event()

    def answer() -> None:
        for _ in range(2000):
            assert ping.wait(30)
            ping.clear()
            pong.set()

    thread = threads.start_thread(answer, "ping")
    for _ in range(2000):
        ping.set()
        assert pong.wait(30)
        pong.clear()
    thread.join(30)
    assert not thread.is_alive()


def test_a_signal_handler_may_set_an_event_that_is_waited_for() -> None:
    event = threads.Event()
    before = signal.signal(signal.SIGALRM, lambda *_: event.set())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        assert event.wait(30)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_thread_is_listed_while_it_runs_and_begins_with_an_empty_context() -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)
    variable.set(1)
    found, go = list[object](), threads.Event()

    def look() -> None:
        found.extend((variable.get(), threading.current_thread().name, thread.is_current()))
        go.wait(30)

    thread = threads.Thread("looks")
    thread.start(look)
    assert until(lambda: len(found) == 3)
    assert found == [0, "agentcgroup-looks", True]
    assert "agentcgroup-looks" in {one.name for one in threading.enumerate()}
    assert not thread.is_current()
    go.set()
    thread.join(30)
    assert not thread.is_alive()
    assert until(lambda: "agentcgroup-looks" not in {one.name for one in threading.enumerate()})


def test_a_target_may_run_in_the_calling_thread() -> None:
    here = threads.Thread("here")
    found = list[bool]()
    here.run(lambda: found.append(here.is_current()))
    assert found == [True]
    assert not here.is_alive()
