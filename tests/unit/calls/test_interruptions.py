"""What a signal handler raises between two steps of ours leaves nothing half done."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import pytest

import agentcgroup
from agentcgroup import CallRecord, LimitExceeded, Session
from agentcgroup.calls import lifecycle
from agentcgroup.calls.call import Call
from agentcgroup.scope import agent, current
from agentcgroup.spawn import placement
from tests.support.interruptions import Alarm, Interruption, at_each_place
from tests.support.processes import until


@pytest.fixture
def session() -> Iterator[Session]:
    gc.collect()
    yield agentcgroup.register("langchain", config={})
    agentcgroup.unregister()
    agent.set(None)  # see `test_an_interrupted_agent_block_names_no_later_call`


def _answer(record: CallRecord, result: object, error: Exception | None) -> object:
    return error or result


def _open(session: Session, **limits: Any) -> Call:
    return lifecycle.open_call(session._services, "python", None, "tool", overrides=limits)


def _true() -> None:
    subprocess.run(["true"], check=True)


def _inline(session: Session) -> None:
    lifecycle.run(_open(session), _answer, lambda: None)


def _adapter(session: Session) -> None:
    lifecycle.run(_open(session), _answer, _true)


def _error(session: Session) -> None:
    def fail() -> None:
        _true()
        raise ValueError

    with contextlib.suppress(ValueError):
        lifecycle.run(_open(session), _answer, fail)


def _block(session: Session) -> None:
    with agentcgroup.agent("coder"), agentcgroup.call("tool"):
        _true()


def _nested(session: Session) -> None:
    with agentcgroup.call("outer"), agentcgroup.call("inner"):
        _true()


def _leftovers(session: Session) -> None:
    with agentcgroup.call("tool"):
        subprocess.Popen(["sleep", "60"])


def _timeout(session: Session) -> None:
    with contextlib.suppress(LimitExceeded), agentcgroup.call("tool", timeout="0.02s"):
        subprocess.run(["sleep", "60"])


def _shell(session: Session) -> None:
    with agentcgroup.call("tool"):
        os.system("true")


def _fork(session: Session) -> None:
    parent = os.getpid()
    try:
        with agentcgroup.call("tool"):
            child = os.fork()
            if child:
                os.waitpid(child, 0)
    finally:
        if os.getpid() != parent:
            os._exit(0)


def _preexec(session: Session) -> None:
    with agentcgroup.call("tool"):
        subprocess.run(["true"], check=True, preexec_fn=lambda: None)


async def _atrue() -> None:
    process = await asyncio.create_subprocess_exec("true")
    await process.wait()


def _async_adapter(session: Session) -> None:
    asyncio.run(lifecycle.arun(_open(session), _answer, _atrue))


def _async_block(session: Session) -> None:
    async def main() -> None:
        async with agentcgroup.call("tool", timeout="60s"):
            await _atrue()

    asyncio.run(main())


def _stream(session: Session) -> None:
    async def body() -> AsyncGenerator[int, None]:
        await _atrue()
        yield 1

    async def main() -> None:
        async for _ in lifecycle.astream(_open(session, timeout="60s"), body):
            pass

    asyncio.run(main())


_SCENARIOS = [
    _inline,
    _adapter,
    _error,
    _block,
    _nested,
    _leftovers,
    _timeout,
    _shell,
    _fork,
    _preexec,
    _async_adapter,
    _async_block,
    _stream,
]


def _calls(session: Session) -> list[Call]:
    found = [one for one in gc.get_objects() if issubclass(type(one), Call)]
    return [one for one in found if one.services is session._services]


def _call_cgroups(session: Session) -> list[str]:
    run = session._services.cgroups.branch()
    assert run is not None
    return [path for path, _, _ in os.walk(run.cgroup.path) if "call-" in os.path.basename(path)]


def _nothing_is_half_done(session: Session) -> None:
    gc.collect()  # a call that nobody has left ends with the exception that holds its frame
    begin = time.monotonic()
    assert session.records
    assert time.monotonic() - begin < 10, "session.records was blocked"
    unsettled = [
        (one.number, one.state) for one in _calls(session) if one.state not in ("opened", "settled")
    ]
    assert unsettled == []
    assert not any(
        one.contained.group.spawning() for one in _calls(session) if one.contained is not None
    )
    assert len(session.records) == len({record.id for record in session.records})
    assert current.get() is None or current.get().ended is not None  # type: ignore[union-attr]
    with agentcgroup.call("afterwards") as call:
        _true()
        os.system("true")
    assert session.records[-1].id == call.id
    assert (call.parent, call.outcome) == (None, "ok")
    assert call.contained is not None
    # Forks outside of calls are not placed.
    child = os.fork()
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("scenario", _SCENARIOS)
def test_an_exception_at_any_place(session: Session, scenario: Callable[[Session], None]) -> None:
    scenario(session)
    places = at_each_place(lambda: scenario(session))
    assert len(places) > 10
    _nothing_is_half_done(session)

    def removed() -> bool:
        scenario(session)  # behind a later call: cgroups that were being made, after 5 s
        _ = session.records
        return len(_call_cgroups(session)) <= 2  # a branch keeps a spare for the next call

    assert until(removed, timeout=30), _call_cgroups(session)


def test_an_interrupted_agent_block_names_no_later_call(session: Session) -> None:
    """No code of ours runs where the handler raises at the first instruction of `__exit__`."""
    leaves = agentcgroup.agent.__exit__.__code__.co_firstlineno
    where: str | None = ""
    number = 0
    while where is not None:
        number += 1
        with (
            Interruption(number) as interruption,
            contextlib.suppress(Alarm),
            agentcgroup.agent("coder"),
        ):
            pass
        where = interruption.where
        if where != f"agent_block.py:{leaves}":
            assert agent.get() is None, where
        agent.set(None)
    assert number > 4


#: Alarms at random moments, in a loop of calls that start processes: argument is the seed.
_STRESS = """
import gc, os, random, signal, subprocess, sys, time
import agentcgroup
from agentcgroup.calls.call import Call

class Alarm(Exception): pass

def ring(*_): raise Alarm

signal.signal(signal.SIGALRM, ring)
random.seed(int(sys.argv[1]))
session = agentcgroup.register("langchain", config={})
rang, rounds, over = 0, 0, time.monotonic() + float(sys.argv[2])
while time.monotonic() < over:
    rounds += 1
    try:
        try:
            longest = random.choice((1e-6, 1e-4, 4e-3))
            signal.setitimer(signal.ITIMER_REAL, longest * random.random())
            with agentcgroup.call("tool"):
                if rounds % 4 == 0:
                    os.system("true")
                elif rounds % 2 == 0:
                    subprocess.run(["true"])
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except Alarm:
        rang += 1
signal.signal(signal.SIGALRM, signal.SIG_IGN)
begin = time.monotonic()
records = session.records
took = time.monotonic() - begin
gc.collect()
time.sleep(0.2)
_ = session.records
calls = [one for one in gc.get_objects() if issubclass(type(one), Call) and one.state != "opened"]
with agentcgroup.call("last") as last:
    subprocess.run(["true"], check=True)
run = session._services.cgroups.branch().cgroup.path
agentcgroup.unregister()
print(
    rounds > 100, rang > rounds / 10, took < 10, last.parent, last.outcome,
    [(one.number, one.state) for one in calls if one.state != "settled"],
    any(one.contained.group.spawning() for one in calls if one.contained is not None),
    len({one.id for one in records}) == len(records), os.path.exists(run),
)
"""


@pytest.mark.parametrize("seed", [1, 2])
def test_alarms_at_random_moments(seed: int) -> None:
    command = [sys.executable, "-c", _STRESS, str(seed), "15"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout == "True True True None ok [] False True False\n", done.stderr[-3000:]


#: Ctrl-C again and again while threads of the program run calls, too.
_STORM = """
import gc, os, signal, subprocess, threading, time
import agentcgroup
from agentcgroup.calls.call import Call

session = agentcgroup.register("langchain", config={})
over = threading.Event()

def interrupt():
    while not over.is_set():
        time.sleep(0.003)
        os.kill(os.getpid(), signal.SIGINT)

def work():
    while not over.is_set():
        with agentcgroup.call("thread"):
            subprocess.run(["true"])

threads = [threading.Thread(target=one) for one in (work, interrupt)]
interrupts, begin = 0, time.monotonic()
try:
    for one in threads:
        one.start()
except KeyboardInterrupt:
    interrupts += 1
while time.monotonic() - begin < 15:
    try:  # twice: the next one may come while the first is being caught
        try:
            while time.monotonic() - begin < 15:
                with agentcgroup.call("main"):
                    subprocess.run(["true"])
        except KeyboardInterrupt:
            interrupts += 1
    except KeyboardInterrupt:
        interrupts += 1
signal.signal(signal.SIGINT, signal.SIG_IGN)
over.set()
for one in threads:
    one.join()
begin = time.monotonic()
_ = session.records
took = time.monotonic() - begin
gc.collect()
_ = session.records
calls = [one for one in gc.get_objects() if issubclass(type(one), Call) and one.state != "opened"]
run = session._services.cgroups.branch().cgroup.path
agentcgroup.unregister()
print(
    interrupts > 100, took < 10,
    [(one.number, one.state) for one in calls if one.state != "settled"], os.path.exists(run),
)
"""


def test_a_storm_of_ctrl_c() -> None:
    command = [sys.executable, "-c", _STORM]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout == "True True [] False\n", done.stderr[-3000:]


def test_a_spawn_that_takes_long_keeps_no_other_call_from_its_record(session: Session) -> None:
    """Another thread of a call that is over is starting a process, whose exec hangs."""
    over, begun = threading.Event(), threading.Event()

    def start(fd: int | None) -> int:
        begun.set()
        over.wait(60)
        return os.getpid()

    with agentcgroup.call("hangs") as call:
        _true()
        thread = threading.Thread(target=placement.place, args=(call, start, int))
        thread.start()
        assert begun.wait(10)
    with agentcgroup.call("next"):
        _true()
    begin = time.monotonic()
    assert [record.tool for record in session.records] == ["hangs", "next"]
    assert time.monotonic() - begin < 10
    assert call.contained is not None
    assert call.contained.group.cgroup is not None
    assert call.contained.group.cgroup.fd >= 0  # the thread still uses it
    over.set()
    thread.join()
    assert until(lambda: call.contained.group.cgroup.fd < 0)


def test_a_callback_may_end_the_session(session: Session) -> None:
    done = threading.Event()

    def unregister(record: CallRecord) -> None:
        agentcgroup.unregister()
        done.set()

    session.on_record(unregister)
    begin = time.monotonic()
    with agentcgroup.call("tool"):
        _true()
    assert done.wait(30)
    assert time.monotonic() - begin < 20
    assert agentcgroup.register("langchain", config={}) is not session
