"""Worker processes: fresh for each call or reused, ready before a call, ended in time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

import agentcgroup
from agentcgroup import CgroupUnavailable, LimitExceeded, Session
from agentcgroup.api import begin
from agentcgroup.calls import lifecycle
from agentcgroup.isolation import round_trip
from agentcgroup.isolation.launcher import Launcher
from tests.support.processes import SOON, alive, ended, until

_PLANTED: list[str] = []
whose: ContextVar[str] = ContextVar("whose", default="nobody's")


@pytest.fixture
def start() -> Iterator[Callable[..., Session]]:
    def start(**config: Any) -> Session:
        return begin({"rules": [{"tool": "*", "isolation": "process"}], **config})

    yield start
    agentcgroup.unregister()


@pytest.fixture
def session(start: Callable[..., Session]) -> Session:
    return start()


def _fork_server(session: Session) -> int:
    """Return the pid of the fork server: our child that is in the run's background cgroup."""
    run = session._services.cgroups.branch()
    assert run is not None
    ours = {int(pid) for pid in _children(os.getpid())}
    (pid,) = (pid for pid in run.background().procs() if pid in ours)
    return pid


def _workers(session: Session) -> list[int]:
    """Return the pids of the ready workers, without a fork that tries modules."""
    fork_server = _fork_server(session)
    session._services.workers().wait_born()
    run = session._services.cgroups.branch()
    assert run is not None
    children = {*map(int, _children(fork_server))} - {*run.background().procs()}
    return sorted(filter(alive, children))


def _children(pid: int) -> list[str]:
    found: list[str] = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += (thread / "children").read_text().split()
    return found


@agentcgroup.isolate
def pid() -> int:
    return os.getpid()


# -- one call sees nothing of another ---------------------------------------------------------


@agentcgroup.isolate("plant")
def plant(secret: str) -> str:
    """Leave a secret everywhere that a process can leave one."""
    _PLANTED.append(secret)
    os.environ["PLANTED"] = secret
    os.dup2(os.memfd_create(secret), 200)
    Path(tempfile.gettempdir(), "planted").write_text(secret)
    Path(tempfile.mkdtemp(), secret).touch()
    return tempfile.gettempdir()


@agentcgroup.isolate("look")
def look(secret: str) -> list[str]:
    """Return the places in which the secret is found."""
    found = []
    if secret in _PLANTED:
        found.append("globals")
    if secret in os.environ.values():
        found.append("environment")
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if secret in os.readlink(f"/proc/self/fd/{fd}"):
                found.append("descriptors")
    for folder, _, files in os.walk(tempfile.gettempdir()):
        if any(secret in file or "planted" in file for file in files):
            found.append(folder)
    return found


def test_a_call_sees_nothing_of_the_call_before_it(session: Session) -> None:
    folder = plant("s3cret")
    assert look("s3cret") == []
    _ = session.records
    assert not os.path.exists(folder)
    assert _PLANTED == []


def test_a_folder_for_temporary_files_that_was_removed_is_made_again(
    session: Session,
) -> None:
    @agentcgroup.isolate("temporary")
    def temporary() -> tuple[str, int]:
        return tempfile.gettempdir(), os.stat(folder).st_mode & 0o777

    pid()
    folder = session._services.workers()._launcher._folder
    _ = session.records
    ready = _workers(session)  # they have their folders, and lose them
    shutil.rmtree(folder)
    for _ in ready:
        pid()
    where, mode = temporary()
    assert os.path.dirname(where) == folder
    assert mode == 0o700


def test_a_reused_worker_keeps_its_state_and_each_call_has_its_own_usage(
    start: Callable[..., Session],
) -> None:
    rules = [{"tool": "*", "isolation": "process", "reuse": 3}]
    session = start(rules=rules)

    @agentcgroup.isolate("spin")
    def spin(seconds: float) -> int:
        begun = time.process_time()
        while time.process_time() - begun < seconds:
            pass
        return os.getpid()

    pids = [spin(0.2), spin(0.001), spin(0.001), spin(0.001)]
    assert len(set(pids[:3])) == 1
    assert pids[3] != pids[0]
    first, second, *_ = session.records
    assert first.cgroup == second.cgroup
    assert first.cpu_usage_s is not None
    assert second.cpu_usage_s is not None
    assert first.cpu_usage_s > 0.15 > second.cpu_usage_s
    assert pid() not in pids  # another tool has a worker of its own


def test_a_reused_worker_has_the_environment_of_the_present_call(
    start: Callable[..., Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(rules=[{"tool": "*", "isolation": "process", "reuse": 50}])

    @agentcgroup.isolate("around")
    def around() -> tuple[int, str, str | None, bool, int, str]:
        level = logging.getLogger("around").level
        there = str(tmp_path) in sys.path
        return os.getpid(), os.getcwd(), os.environ.get("SECRET"), there, level, whose.get()

    here = os.getcwd()
    worker, *plain = around()
    assert plain == [here, None, False, logging.NOTSET, "nobody's"]
    token = whose.set("mine")
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setenv("SECRET", "of one call")
        patch.syspath_prepend(str(tmp_path))
        logging.getLogger("around").setLevel(logging.DEBUG)
        time.sleep(1.1)  # for so long the levels are taken to be unchanged
        changed = [str(tmp_path), "of one call", True, logging.DEBUG, "mine"]
        assert around() == (worker, *changed)
    whose.reset(token)
    logging.getLogger("around").setLevel(logging.NOTSET)
    time.sleep(1.1)
    assert around() == (worker, *plain)


def test_a_reused_worker_is_replaced_when_it_dies_or_leaves_a_process(
    start: Callable[..., Session],
) -> None:
    session = start(rules=[{"tool": "*", "isolation": "process", "reuse": 100}])

    @agentcgroup.isolate("do")
    def do(what: str) -> int:
        if what == "die":
            os._exit(1)
        if what == "leave":
            subprocess.Popen(["sleep", "3600"])
        return os.getpid()

    first = do("nothing")
    assert do("nothing") == first
    with pytest.raises(LimitExceeded):
        do("die")
    second = do("nothing")
    assert second != first
    do("leave")
    assert "leftovers" in [record.reason for record in session.records]
    assert do("nothing") not in (first, second)


def test_an_invalid_message_after_the_answer_prevents_no_clean_up(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    @agentcgroup.isolate("babble")
    def babble() -> str:
        from agentcgroup.isolation import worker

        worker._delay_exit = lambda channel: channel._socket.send(b"?")
        return tempfile.gettempdir()

    folder = babble()
    _ = session.records
    assert "clearing up behind a call failed" not in caplog.text
    assert not os.path.exists(folder)


# -- ready before a call ----------------------------------------------------------------------


def test_a_worker_is_ready_after_each_call(session: Session) -> None:
    pid()
    _ = session.records
    assert until(lambda: len(_workers(session)) > 0)
    ready = _workers(session)
    assert pid() in ready


def test_a_worker_that_is_born_after_its_calls_end_runs_nothing(
    session: Session, tmp_path: Path
) -> None:
    """It was requested in time, but the fork server was stopped."""
    pid()
    late = tmp_path / "late"

    @agentcgroup.isolate(timeout="0.3s", memory_max="300M")  # for which no worker is ready
    def endless() -> None:
        late.touch()
        while True:
            pass

    def call() -> None:
        with pytest.raises(LimitExceeded) as caught:
            endless()
        outcomes.append(caught.value.record.outcome)

    outcomes: list[str] = []
    fork_server = _fork_server(session)
    os.kill(fork_server, signal.SIGSTOP)
    thread = threading.Thread(target=call)
    thread.start()
    time.sleep(1)
    os.kill(fork_server, signal.SIGCONT)
    thread.join(SOON)
    assert outcomes == ["timeout"]


def test_a_burst_raises_the_number_of_ready_workers_up_to_max(
    start: Callable[..., Session],
) -> None:
    session = start(workers={"max": 3})
    threads = [threading.Thread(target=pid) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _ = session.records
    assert until(lambda: len(_workers(session)) == 3)


def test_idle_workers_end_except_for_min(start: Callable[..., Session]) -> None:
    session = start(workers={"min": 1, "idle": "400ms"})
    threads = [threading.Thread(target=pid) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _ = session.records
    assert until(lambda: len(_workers(session)) == 1)
    time.sleep(1)
    assert len(_workers(session)) == 1


def test_nothing_is_kept_for_agents_that_make_no_more_calls(start: Callable[..., Session]) -> None:
    session = start(workers={"min": 1, "max": 1, "idle": "200ms"})
    for number in range(5):
        with agentcgroup.agent(f"agent-{number}"):
            pid()
        with agentcgroup.call("outer"):
            pid()
    assert until(lambda: len(session._services.workers()._ready) == 1)


def test_no_more_is_kept_for_many_agents_than_max_workers(
    start: Callable[..., Session],
) -> None:
    session = start(workers={"max": 2})
    for number in range(10):
        with agentcgroup.agent(f"agent-{number}"):
            pid()
    _ = session.records
    assert len(session._services.workers()._ready) <= 3


def test_a_ready_worker_that_was_killed_is_not_used(session: Session) -> None:
    pid()
    _ = session.records
    assert until(lambda: len(_workers(session)) > 0)
    for ready in _workers(session):
        os.kill(ready, signal.SIGKILL)
    kinds = session._services.workers()._ready.values()
    assert until(lambda: all(one.ended.is_set() for kind in kinds for one in kind.workers))
    assert pid()
    assert session.records[-1].outcome == "ok"


# -- where there are no cgroups ---------------------------------------------------------------


def test_without_a_cgroup_a_worker_is_tracked_and_killed(start: Callable[..., Session]) -> None:
    session = start(cgroup_root="/tmp")
    assert session._services.cgroups.place.base is None
    assert pid() != os.getpid()

    @agentcgroup.isolate(timeout="500ms")
    def hold() -> None:
        time.sleep(3600)

    with pytest.raises(LimitExceeded, match="time limit"):
        hold()
    records = sorted(session.records, key=lambda record: record.started_at)
    assert [record.outcome for record in records] == ["ok", "timeout"]
    assert {record.isolation for record in session.records} == {"process"}


# -- the fork server --------------------------------------------------------------------------


def test_it_has_one_thread_and_none_of_the_apps_files_open(
    session: Session, tmp_path: Path
) -> None:
    with open(tmp_path / "ours", "w") as ours:
        os.set_inheritable(ours.fileno(), True)
        pid()
        fork_server = _fork_server(session)
    assert len(os.listdir(f"/proc/{fork_server}/task")) == 1
    names = [os.readlink(entry) for entry in Path(f"/proc/{fork_server}/fd").iterdir()]
    assert str(tmp_path / "ours") not in names


def test_it_starts_with_any_object_in_the_import_path(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, tmp_path])  # not a str: Python ignores it
    assert pid() != os.getpid()


def test_it_reports_the_end_of_workers_though_the_app_blocks_signals(session: Session) -> None:
    @agentcgroup.isolate("die")
    def die() -> None:
        os._exit(3)

    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM})
    try:
        with pytest.raises(LimitExceeded):
            die()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert session.records[-1].reason == "exited: 3"


def test_when_it_dies_the_next_call_starts_another(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    pid()
    first = _fork_server(session)
    os.kill(first, signal.SIGKILL)
    assert until(lambda: "the process that makes workers has ended" in caplog.text)
    assert pid()
    assert session.records[-1].outcome == "ok"
    assert _fork_server(session) != first


def test_when_it_dies_calls_in_its_workers_are_lost(session: Session, tmp_path: Path) -> None:
    holds = tmp_path / "holds"

    @agentcgroup.isolate
    def hold() -> None:
        holds.touch()
        time.sleep(3600)

    def killing() -> None:
        assert until(holds.exists)
        os.kill(_fork_server(session), signal.SIGKILL)

    pid()
    killer = threading.Thread(target=killing)
    killer.start()
    with pytest.raises(LimitExceeded, match="no fault of its own"):
        hold()
    killer.join()
    # Its record comes at once, the record of the call before it a little later.
    assert {record.tool: record.outcome for record in session.records}["hold"] == "killed"


def test_when_the_thread_that_reads_its_reports_fails_it_ends_with_its_workers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Anywhere:
        over = False

        def background(self) -> Anywhere:
            return self

        def note_helpers(self) -> None:
            pass

        def begin_spawn(self, failed: OSError | None = None) -> int | None:
            return None

        def end_spawn(self, pid: int | None) -> None:
            pass

        def note_child(self, pid: int) -> None:
            pass

    def fail() -> None:
        raise RuntimeError("a fault of ours")

    launcher = Launcher(Anywhere(), 0.5, fail, lambda job: job(), time.time())
    worker = launcher.spawn(None)
    assert worker.ended.wait(SOON)
    assert worker.how == "lost: the process that makes workers ended"
    assert "a fault of ours" in caplog.text
    launcher.close()


def test_a_call_that_outlives_its_session_starts_no_workers(session: Session) -> None:
    call = lifecycle.open_call(session._services, "python", None, "late")
    session.close()
    with pytest.raises(CgroupUnavailable, match="closed"):
        round_trip.run(call, os.getpid, (), {})


def test_modules_that_bodies_import_are_inherited_by_later_workers(
    start: Callable[..., Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plain_module.py").write_text("import os\nborn = os.getpid()\n")
    (tmp_path / "threaded_module.py").write_text(
        "import os, threading\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "born = os.getpid()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    time.sleep(0.02)  # the kernel's time of a change is that of its last tick
    session = start()

    @agentcgroup.isolate("importing")
    def born_here() -> tuple[bool, bool]:
        import plain_module
        import threaded_module

        return plain_module.born == os.getpid(), threaded_module.born == os.getpid()

    assert born_here() == (True, True)

    def preloaded() -> bool:
        _ = session.records
        time.sleep(0.1)
        plain, threaded = born_here()
        assert threaded  # never in the fork server
        return not plain

    assert until(preloaded)
    assert len(os.listdir(f"/proc/{_fork_server(session)}/task")) == 1


def test_a_module_that_a_tool_writes_runs_only_in_its_call(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model writes a program, imports it, and writes another one under the same name."""
    monkeypatch.syspath_prepend(str(tmp_path))
    written, log = tmp_path / "solution.py", tmp_path / "log"

    @agentcgroup.isolate("solve")
    def solve(answer: int) -> tuple[int, int]:
        program = (
            f"import os\nopen({str(log)!r}, 'a').write(f'{{os.getpid()}}\\n')\nanswer = {answer}"
        )
        # Another length each time: within one second Python notices a change by the length only.
        written.write_text(program + "\n" * (answer - 99))
        import solution

        return os.getpid(), solution.answer

    workers = []
    for answer in range(100, 106):
        worker, got = solve(answer)
        assert got == answer
        workers.append(worker)
        _ = session.records  # by then its worker has sent the names of its modules
        time.sleep(0.1)
    assert [int(line) for line in log.read_text().split()] == workers


def test_programs_that_a_tool_executes_inherit_no_socket(session: Session, tmp_path: Path) -> None:
    @agentcgroup.isolate("execute")
    def execute() -> int:
        return os.system(f"ls -l /proc/self/fd > {tmp_path}/listing")  # which closes none

    assert execute() == 0
    listing = (tmp_path / "listing").read_text()
    assert "listing" in listing
    assert "socket:" not in listing


def test_nothing_outlives_an_app_that_is_killed() -> None:
    code = """
import os, sys, threading, time
import agentcgroup
@agentcgroup.isolate(isolation="process")
def hold(): print(os.getpid(), os.getppid(), os.environ["TMPDIR"], flush=True); time.sleep(3600)
for _ in range(3): threading.Thread(target=hold, daemon=True).start()
threading.Event().wait()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as app:
        assert app.stdout is not None
        try:
            lines = [app.stdout.readline().split() for _ in range(3)]
            pids = {int(word) for line in lines for word in line[:2]}
            assert len(pids) == 4
            folder = os.path.dirname(lines[0][2])
            assert os.path.isdir(folder)
        finally:
            app.kill()
    assert ended(*pids)
    assert until(lambda: not os.path.exists(folder))


def test_an_app_that_calls_os_exit_prints_no_traceback_of_ours() -> None:
    code = """
import os, agentcgroup
@agentcgroup.isolate(isolation="process")
def nothing(): pass
for _ in range(10):  # the signal comes at another moment each time
    if os.fork() == 0:
        nothing()
        os._exit(0)
    os.wait()
"""
    app = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "Traceback" not in app.stderr


def test_a_cgroup_that_cannot_be_removed_prevents_no_other_clean_up(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    @agentcgroup.isolate("temporary")
    def temporary() -> str:
        return tempfile.gettempdir()

    pid()
    _ = session.records
    assert until(lambda: len(_workers(session)) > 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as taken:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
        try:
            with contextlib.suppress(OSError):
                while True:
                    taken.enter_context(open(os.devnull))
            folder = temporary()
            _ = session.records
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "Too many open files" in caplog.text
    assert not os.path.exists(folder)


def test_numbers_of_file_descriptors_and_cgroups_do_not_grow(start: Callable[..., Session]) -> None:
    session = start(workers={"max": 1})

    def counted() -> tuple[int, int]:
        _ = session.records
        assert until(lambda: len(_workers(session)) == 1)
        run = session._services.cgroups.branch()
        assert run is not None
        return len(os.listdir("/proc/self/fd")), sum(1 for _ in os.walk(run.cgroup.path))

    for _ in range(3):
        pid()
    before = counted()
    for _ in range(100):
        pid()
    assert until(lambda: counted() == before)


@pytest.mark.parametrize("way", ["sync", "async", "thread"])
def test_a_fork_server_that_is_stopped_holds_no_call_past_its_timeout(
    session: Session, way: str
) -> None:
    """The tool of another call may have stopped it."""

    @agentcgroup.isolate("pid", timeout="1s")
    def pid() -> int:
        return os.getpid()

    @agentcgroup.isolate("pid", timeout="1s")
    async def apid() -> int:
        return os.getpid()

    def run() -> int:
        if way == "thread":
            with ThreadPoolExecutor(1) as pool:
                return pool.submit(pid).result()
        return asyncio.run(apid()) if way == "async" else pid()

    run()
    session._services.deferred.drain(SOON)
    assert session._services.workers().wait_preloaded(SOON)
    ready = _workers(session)
    fork_server = _fork_server(session)
    os.kill(fork_server, signal.SIGSTOP)
    began = time.monotonic()
    try:
        served = [run() for _ in ready]  # without the fork server
        for _ in range(2):
            with pytest.raises(LimitExceeded):
                run()
        assert time.monotonic() - began < SOON / 2
    finally:
        os.kill(fork_server, signal.SIGCONT)
    assert sorted(served) == ready
    assert run() not in served
    outcomes = [record.outcome for record in session.records]
    assert outcomes == ["ok"] * (1 + len(ready)) + ["timeout"] * 2 + ["ok"]
    living = session._services.workers()._launcher._living
    ready_now = session._services.workers()._ready
    # None is left but those that wait for a call.
    assert until(lambda: len(living) == sum(len(one.workers) for one in ready_now.values()))


@pytest.mark.parametrize("way", ["sleeps", "spawns", "crashes"])
def test_a_fork_server_that_stops_while_a_body_runs_holds_no_call(
    session: Session, way: str
) -> None:
    @agentcgroup.isolate("body", timeout="2s")
    def body() -> None:
        os.kill(os.getppid(), signal.SIGSTOP)
        if way == "crashes":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif way == "spawns":
            subprocess.run(["sleep", "100"], check=True)
        time.sleep(100)

    began = time.monotonic()
    with pytest.raises(LimitExceeded):
        body()
    assert time.monotonic() - began < SOON / 2
    os.kill(_fork_server(session), signal.SIGCONT)
    assert session.records[-1].outcome == "timeout"
