"""Events to callbacks and streams, and a run whose helper dies."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable

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


def test_a_callback_gets_the_fork_the_exec_and_the_exit_of_a_process(registered: Register) -> None:
    session = registered()
    events: list[Event] = []
    session.on_event(events.append)
    before = time.time()
    with agentcgroup.call("tool") as call:
        child = subprocess.Popen(["sleep", "60"])
        assert until(lambda: len(events) == 2)  # while the process is there
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


def test_a_process_born_outside_is_an_escape_event_and_a_fork_that_joins_is_none(
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
    found = [event.kind for event in events]
    assert found == ["fork", "exec", "exit", "escape", "exec", "exit"]


def test_a_callback_that_raises_affects_no_call(
    registered: Register, caplog: pytest.LogCaptureFixture
) -> None:
    session = registered()
    got: list[Event] = []

    def broken(event: Event) -> None:
        got.append(event)
        raise ValueError("of the callback's own")

    session.on_event(broken)
    with agentcgroup.call("tool"):
        subprocess.run(["true"])
    assert session.records[-1].processes_started == 1
    assert len(got) == 3
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


def test_the_run_goes_on_without_its_helper_and_logs_it_once(
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
    logged = [record for record in caplog.records if "helper has died" in record.getMessage()]
    assert len(logged) == 1
    assert logged[0].levelno == logging.WARNING


def test_a_process_that_begins_before_the_helper_reads_the_announcement_is_counted(
    registered: Register, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by the kernel: the app itself enters the cgroup in its map."""
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


def test_a_record_has_no_processes_where_events_are_missing(
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


_APP = """\
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


@pytest.mark.parametrize("victims", ["helper", "app", "both"])
def test_no_program_stays_loaded_when_one_side_is_killed(backend: str, victims: str) -> None:
    before = _programs()
    environment = {**os.environ, "AGENTCGROUP_TEST": victims + str(os.getpid())}
    app = subprocess.Popen(
        [sys.executable, "-c", _APP, backend], stdout=subprocess.PIPE, env=environment
    )
    assert app.stdout is not None
    child = int(app.stdout.readline())
    mark = environment["AGENTCGROUP_TEST"]
    (helper,) = helpers(mark)
    loaded = _programs() - before
    if backend == "libbpf":
        assert loaded
    if victims != "app":
        os.kill(helper, signal.SIGKILL)
    if victims != "helper":
        app.kill()
    assert until(lambda: not helpers(mark))
    assert until(lambda: loaded.isdisjoint(_programs()))
    app.kill()
    app.wait()
    app.stdout.close()
    os.kill(child, signal.SIGKILL)


def _monitor(backend: str, holding_cgroup: Callable[[], str | None] = lambda: None) -> Monitor:
    return Monitor(
        backend,
        "default",
        kills=False,
        run="",
        joins=False,
        holding_cgroup=holding_cgroup,
        on_ready=lambda _: None,
    )


def test_a_fault_of_ours_ends_the_monitor_and_is_logged(
    backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> str | None:
        raise RuntimeError("a fault of ours")

    monitor = _monitor(backend, holding_cgroup=fail)
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
    monitor = _monitor(backend)
    monitor.start()
    assert not monitor.wait(SOON)
    assert monitor.state == "off"
    assert until(lambda: "helper cannot be started" in caplog.text)
    assert until(lambda: len(os.listdir("/proc/self/fd")) <= before)
