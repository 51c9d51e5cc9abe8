"""Events as they happen, and what becomes of a run whose helper dies."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import struct
import subprocess
import sys
import time

import pytest

import agentcgroup
from agentcgroup import Event
from agentcgroup.bpf import bpf_syscall
from agentcgroup.monitor.client import Monitor
from tests.cases.escapes import escapes
from tests.support.helpers import helpers, overwhelmed
from tests.support.monitored import Register, backend, patient, registered
from tests.support.processes import SOON, until

__all__ = ["backend", "escapes", "patient", "registered"]

#: bpf(2), uapi/linux/bpf.h.
_PROG_GET_NEXT_ID = 11


def test_a_callback_hears_a_process_begin_run_and_end(registered: Register) -> None:
    session = registered()
    events: list[Event] = []
    session.on_event(events.append)
    before = time.time()
    with agentcgroup.call("tool") as call:
        child = subprocess.Popen(["sleep", "60"])
        assert until(lambda: len(events) == 2)  # while it can still be looked at
        child.kill()
        child.wait()
    _ = session.records
    assert {event.pid for event in events} == {child.pid}
    assert [event.kind for event in events] == ["fork", "exec", "exit"]
    assert {event.call for event in events} == {call.id}
    fork, execution, end = events
    assert fork.ppid == os.getpid()
    assert os.path.basename(execution.program or "") == "sleep"
    assert (end.exit_code, end.signal) == (None, signal.SIGKILL)
    assert before - 1 < fork.time <= execution.time <= end.time < time.time() + 1


def test_who_is_born_outside_is_told_and_who_was_forked_and_joins_is_not(
    registered: Register, escapes: ctypes.PyDLL
) -> None:
    session = registered()
    events: list[Event] = []
    session.on_event(events.append)
    with agentcgroup.call("tool"):
        subprocess.run(["true"], preexec_fn=int)
        program = (ctypes.c_char_p * 2)(b"/bin/true", None)
        os.waitpid(escapes.by_posix_spawn(program), 0)
    assert session.records[-1].escapes == 1
    told = [event.kind for event in events]
    assert told == ["fork", "exec", "exit", "escape", "exec", "exit"]


def test_a_callback_that_raises_hurts_nobody(
    registered: Register, caplog: pytest.LogCaptureFixture
) -> None:
    session = registered()
    heard: list[Event] = []

    def broken(event: Event) -> None:
        heard.append(event)
        raise ValueError("of the callback's own")

    session.on_event(broken)
    with agentcgroup.call("tool"):
        subprocess.run(["true"])
    assert session.records[-1].processes_started == 1
    assert len(heard) == 3
    assert "an on_event callback failed" in caplog.text


def test_a_stream_ends_with_its_session(registered: Register) -> None:
    session = registered()
    stream = session.stream()
    with agentcgroup.call("tool"):
        subprocess.run(["sh", "-c", "exit 3"])
    agentcgroup.unregister()
    events = list(stream)
    assert [event.kind for event in events] == ["fork", "exec", "exit"]
    assert events[-1].exit_code == 3
    assert stream.lost == 0


def test_the_run_goes_on_without_its_helper_and_says_so_once(
    registered: Register, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AGENTCGROUP_TEST", str(os.getpid()))
    session = registered()
    (helper,) = helpers(str(os.getpid()))
    os.kill(helper, signal.SIGKILL)
    assert until(lambda: session._services.monitor.state == "dead")
    for _ in range(3):
        with agentcgroup.call("tool"):
            subprocess.run(["true"])
    records = session.records
    assert [record.outcome for record in records] == ["ok"] * 3
    assert [record.monitor for record in records] == [None] * 3
    told = [record for record in caplog.records if "helper has died" in record.getMessage()]
    assert len(told) == 1
    assert told[0].levelno == logging.WARNING


def test_what_begins_before_the_helper_has_heard_of_its_call_is_counted(
    registered: Register, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by the kernel: the host itself tells it of the cgroup."""
    monkeypatch.setenv("AGENTCGROUP_TEST", str(os.getpid()))
    session = registered()
    (helper,) = helpers(str(os.getpid()))
    os.kill(helper, signal.SIGSTOP)
    try:
        for _ in range(3):
            with agentcgroup.call("tool"):
                subprocess.run(["true"])
    finally:
        os.kill(helper, signal.SIGCONT)
    records = session.records
    assert [record.processes_started for record in records] == [1] * 3
    assert [record.escapes for record in records] == [0] * 3
    counted = [record.run_delay_s is not None for record in records]
    assert counted == [backend == "libbpf"] * 3


def test_what_a_helper_cannot_keep_up_with_is_not_told(
    registered: Register, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    overwhelmed(registered, monkeypatch, caplog)


def _programs() -> set[int]:
    """Return the ids of the BPF programs that the kernel has, as `bpftool prog list` does."""
    found: set[int] = set()
    block = ctypes.create_string_buffer(12)  # start_id, next_id, open_flags
    while True:
        try:
            bpf_syscall._call(_PROG_GET_NEXT_ID, block)
        except FileNotFoundError:
            return found
        (following,) = struct.unpack_from("=I", block, 4)
        found.add(following)
        struct.pack_into("=I", block, 0, following)


_HOST = """\
import os, subprocess, sys, time
import agentcgroup
session = agentcgroup.register(config={"mode": "observe", "monitor": {"backend": sys.argv[1]}})
session._services.monitor.start()
assert session._services.monitor.wait(60), session._services.monitor.refused
with agentcgroup.call("tool"):
    child = subprocess.Popen(["sleep", "600"])
    print(child.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("victims", ["helper", "host", "both"])
def test_whoever_is_shot_nothing_stays_loaded(backend: str, victims: str) -> None:
    before = _programs()
    environment = {**os.environ, "AGENTCGROUP_TEST": victims + str(os.getpid())}
    host = subprocess.Popen(
        [sys.executable, "-c", _HOST, backend], stdout=subprocess.PIPE, env=environment
    )
    assert host.stdout is not None
    child = int(host.stdout.readline())
    mark = environment["AGENTCGROUP_TEST"]
    (helper,) = helpers(mark)
    loaded = _programs() - before
    if backend == "libbpf":
        assert loaded
    if victims != "host":
        os.kill(helper, signal.SIGKILL)
    if victims != "helper":
        host.kill()
    assert until(lambda: not helpers(mark))
    assert until(lambda: loaded.isdisjoint(_programs()))
    host.kill()
    host.wait()
    host.stdout.close()
    os.kill(child, signal.SIGKILL)


def test_a_fault_of_ours_ends_the_monitor_and_says_so(
    backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> str | None:
        raise RuntimeError("a fault of ours")

    monitor = Monitor(backend, "default", kills=False, run="", joins=False)
    monitor.harbour = fail
    monitor.start()
    assert not monitor.wait(SOON)
    assert monitor.state == "dead"
    assert until(lambda: "the monitor is ended (RuntimeError('a fault of ours'))" in caplog.text)
    monitor.close()


def test_a_helper_that_cannot_be_started_leaves_nothing_open(
    backend: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    before = len(os.listdir("/proc/self/fd"))
    monitor = Monitor(backend, "default", kills=False, run="", joins=False)
    monitor.start()
    assert not monitor.wait(SOON)
    assert monitor.state == "off"
    assert until(lambda: "helper cannot be started" in caplog.text)
    assert until(lambda: len(os.listdir("/proc/self/fd")) <= before)
