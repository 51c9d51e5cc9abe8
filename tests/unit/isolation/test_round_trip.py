"""A tool's body in a worker: what goes there, what comes back, and what fails."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

import pytest

import agentcgroup
from agentcgroup import LimitExceeded, Session, Unshippable
from agentcgroup.api import begin
from agentcgroup.errors import RemoteError
from agentcgroup.isolation import bodies, round_trip
from agentcgroup.isolation.substitutes import Method

who: ContextVar[str] = ContextVar("who", default="nobody")


@pytest.fixture
def session() -> Iterator[Session]:
    yield begin({"rules": [{"tool": "*", "isolation": "process"}]})
    agentcgroup.unregister()


@agentcgroup.isolate
def where() -> tuple[int, str]:
    with open("/proc/self/cgroup") as file:
        return os.getpid(), file.read().strip().rpartition("\n")[2].rpartition("::")[2]


@agentcgroup.isolate
def echo(*args: object, **kwargs: object) -> object:
    return args, kwargs


@agentcgroup.isolate
def fail(error: BaseException) -> None:
    raise error


# -- there and back ---------------------------------------------------------------------------


def test_a_body_runs_in_a_process_of_its_own_in_the_calls_cgroup(session: Session) -> None:
    pid, cgroup = where()
    record = session.records[-1]
    assert pid != os.getpid()
    assert record.isolation == "process"
    assert record.outcome == "ok"
    assert record.cgroup is not None
    assert record.cgroup.endswith(cgroup)


def test_each_call_has_a_fresh_worker(session: Session) -> None:
    assert len({where() for _ in range(5)}) == 5


def test_arguments_and_results_are_equal_on_both_sides(session: Session) -> None:
    big = os.urandom(3 << 20)
    assert echo(1, "two", [3.0, None], key={"big": big}) == (
        (1, "two", [3.0, None]),
        {"key": {"big": big}},
    )


def test_a_closure_and_a_class_that_no_module_has_go_by_value(session: Session) -> None:
    class Point:
        def __init__(self, x: int) -> None:
            self.x = x

    step = 5

    @agentcgroup.isolate
    def moved(point: Point) -> Point:
        return Point(point.x + step)

    point = moved(Point(1))
    assert type(point) is Point
    assert point.x == 6


def test_an_array_arrives_as_a_writable_copy(session: Session) -> None:
    numpy = pytest.importorskip("numpy")

    @agentcgroup.isolate
    def doubled(array: object) -> object:
        array *= 2  # type: ignore[operator]
        return array

    array = numpy.ones(1 << 20)
    result = doubled(array)
    result += 1
    assert result.sum() == 3 * len(array)
    assert array.sum() == len(array)


def test_the_body_finds_the_environment_of_the_call(
    session: Session, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    @agentcgroup.isolate
    def around() -> tuple[str, str | None, str]:
        return os.getcwd(), os.environ.get("AROUND"), who.get()

    around()  # starts the fork server before the change
    monkeypatch.chdir(str(tmp_path))
    monkeypatch.setenv("AROUND", "yes")
    token = who.set("me")
    try:
        assert around() == (str(tmp_path), "yes", "me")
    finally:
        who.reset(token)


def test_a_working_directory_that_was_removed_and_made_again_is_the_bodys(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @agentcgroup.isolate
    def write() -> None:
        with open("written", "w"):
            pass

    workspace = tmp_path / "workspace"
    for _ in range(2):  # as an app does that gives each task an empty one
        workspace.mkdir()
        monkeypatch.chdir(workspace)
        write()
        assert (workspace / "written").exists()
        shutil.rmtree(workspace)


def test_the_apps_default_timeout_of_sockets_does_not_hold_for_workers(session: Session) -> None:
    @agentcgroup.isolate
    def slow() -> str:
        time.sleep(1)
        return "done"

    socket.setdefaulttimeout(0.2)
    try:
        assert slow() == "done"
    finally:
        socket.setdefaulttimeout(None)


def test_an_async_body_runs_in_a_loop_and_does_not_block_the_apps(session: Session) -> None:
    @agentcgroup.isolate
    async def slow(value: int) -> int:
        await asyncio.sleep(1)
        return value + os.getpid() * 0

    async def main() -> tuple[list[int], int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticking = asyncio.create_task(tick())
        results = await asyncio.gather(*(slow(number) for number in range(4)))
        ticking.cancel()
        return results, ticks

    results, ticks = asyncio.run(main())
    assert results == [0, 1, 2, 3]
    assert ticks > 5
    assert {record.isolation for record in session.records} == {"process"}


# -- what it prints and logs ------------------------------------------------------------------


def test_it_may_replace_stdout_by_an_object_of_its_own(session: Session) -> None:
    @agentcgroup.isolate
    def mute() -> str:
        class Silence:
            def write(self, _text: str) -> None:
                pass

        sys.stdout = Silence()  # type: ignore[assignment]  # as tools do
        print("nothing")
        return "done"

    assert mute() == "done"


def test_what_it_prints_and_logs_appears_in_the_app_in_order(
    session: Session, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    @agentcgroup.isolate
    def talk() -> None:
        print("one", end="")
        print(" und zwei: ä€😀")
        logging.getLogger("tool").warning("three %s", 3)
        print("four")

    with caplog.at_level(logging.INFO, "tool"):
        talk()
    assert capsys.readouterr().out == "one und zwei: ä€😀\nfour\n"
    assert [r.getMessage() for r in caplog.records if r.name == "tool"] == ["three 3"]


# -- how it fails -----------------------------------------------------------------------------


class TwoPart:
    """Pickles, and does not unpickle."""

    def __init__(self, one: str, _other: str) -> None:
        self.one = one

    def __reduce__(self) -> tuple[object, ...]:
        return TwoPart, (self.one,)

    def __str__(self) -> str:
        return self.one


def test_output_that_cannot_be_shown_fails_no_call(
    session: Session, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    kind = TwoPart

    @agentcgroup.isolate
    def odd() -> str:
        logging.getLogger("odd").warning("look", extra={"found": kind("one", "two")})
        sys.stdout.buffer.write(b"\xff\n")
        print("\u00e9", end="")
        return "done"

    with (
        open(1, "w", encoding="ascii", closefd=False) as narrow,
        pytest.MonkeyPatch.context() as mp,
    ):
        mp.setattr(sys, "stdout", narrow)
        assert odd() == "done"
    assert capfd.readouterr().out == "\\udcff\n\\xe9"
    assert [record.found for record in caplog.records if record.msg == "look"] == ["one"]

    with open(os.devnull, "w") as closed, pytest.MonkeyPatch.context() as mp:
        mp.setattr(sys, "stdout", closed)
        closed.close()
        assert odd() == "done"
    assert "cannot be shown: ValueError('I/O operation on closed file.')" in caplog.text


def test_threads_and_forks_of_it_may_print_while_its_result_is_copied(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    @agentcgroup.isolate
    def loud(data: bytes) -> bytes:
        def shout() -> None:
            while True:
                print("x" * (100 << 10))

        if os.fork() == 0:
            shout()
        for _ in range(2):
            threading.Thread(target=shout, daemon=True).start()
        time.sleep(0.05)
        return data

    data = os.urandom(1 << 20)
    with open(os.devnull, "w") as silence:
        monkeypatch.setattr(sys, "stdout", silence)
        for _ in range(10):
            assert loud(data) == data


def test_a_result_that_does_not_unpickle_is_named(session: Session) -> None:
    kind = TwoPart

    @agentcgroup.isolate
    def give() -> object:
        return kind("one", "two")

    with pytest.raises(Unshippable, match=r"the result .* does not unpickle: TypeError"):
        give()
    record = session.records[-1]
    assert (record.outcome, record.isolation) == ("error", "process")
    assert str(record.reason).startswith("unshippable: the result")


def test_an_attribute_that_is_nan_is_not_taken_for_changed(session: Session) -> None:
    class Tool:
        def __init__(self) -> None:
            self.missing = float("nan")
            self.calls = 0

        def run(self) -> None:
            self.calls += 1

    tool = Tool()
    with agentcgroup.call("nan") as call:
        method = Method(tool, "run", is_async=False)
        assert round_trip.run(call, method, (), {}) == (None, ["calls"])


def test_an_exception_is_raised_with_the_workers_traceback(session: Session) -> None:
    with pytest.raises(KeyError, match="lost") as caught:
        fail(KeyError("lost"))
    assert "in fail" in str(caught.value.__cause__)
    assert session.records[-1].outcome == "error"


def test_a_remote_error_replaces_an_exception_that_does_not_unpickle(session: Session) -> None:
    @agentcgroup.isolate
    def peculiar() -> None:
        class Peculiar(Exception):
            def __init__(self, a: int, b: int) -> None:
                super().__init__("peculiar")

        raise Peculiar(1, 2)

    with pytest.raises(RemoteError, match="Peculiar: peculiar") as caught:
        peculiar()
    assert "in peculiar" in str(caught.value.__cause__)


def test_the_part_that_cannot_be_sent_is_named(session: Session) -> None:
    with pytest.raises(Unshippable, match=r"argument 'args'.*\[1\]\['db'\].*lock") as caught:
        echo(1, {"db": threading.Lock()})
    assert not caught.value.ran
    lock = threading.Lock()

    @agentcgroup.isolate
    def locked() -> bool:
        return lock.locked()

    with pytest.raises(Unshippable, match="closure variable 'lock' of 'locked'"):
        locked()

    @agentcgroup.isolate
    def yielding() -> object:
        return (number for number in range(3))

    with pytest.raises(Unshippable, match=r"the result \(generator\)") as caught:
        yielding()
    assert caught.value.ran


def _module_of(thing: object) -> str:
    return type(thing).__module__


def test_an_argument_that_only_the_app_can_import_is_refused_or_runs_inline(
    session: Session,
) -> None:
    plugin = types.ModuleType("plugin_of_the_app")  # as plugin loaders make them
    exec("class Thing: pass", plugin.__dict__)

    def use(on_unshippable: str) -> object:
        with agentcgroup.call("plugin", on_unshippable=on_unshippable) as call:
            return bodies.run(call, bodies.Body(_module_of), (plugin.Thing(),), {})

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, plugin.__name__, plugin)
        with pytest.raises(Unshippable, match="No module named 'plugin_of_the_app'") as caught:
            use("error")
        assert not caught.value.ran
        assert use("inline") == plugin.__name__
    records = {record.isolation: record for record in session.records}
    assert records["process"].outcome == "rejected"
    assert records["inline"].outcome == "ok"
    for record in records.values():
        assert str(record.reason).startswith("unshippable: the function or an argument")


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (lambda: os._exit(3), "exited: 3"),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "crashed: SIGSEGV"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "crashed: SIGKILL"),
    ],
)
def test_a_worker_that_dies_ends_its_call_and_no_other(
    session: Session, end: object, reason: str
) -> None:
    died = agentcgroup.isolate("die")(end)
    with pytest.raises(LimitExceeded, match="die"):
        died()
    record = session.records[-1]
    assert (record.outcome, record.reason) == ("killed", reason)
    assert where()


def test_the_timeout_ends_a_body_that_holds_the_gil(session: Session) -> None:
    @agentcgroup.isolate(timeout="300ms")
    def stuck() -> None:
        import ctypes

        ctypes.PyDLL(None).sleep(3600)  # with the GIL

    begun = time.monotonic()
    with pytest.raises(LimitExceeded, match="time limit"):
        stuck()
    assert time.monotonic() - begun < 30
    assert session.records[-1].outcome == "timeout"


def test_cancelling_kills_the_worker(session: Session) -> None:
    @agentcgroup.isolate
    async def slow() -> None:
        time.sleep(3600)

    async def main() -> None:
        task = asyncio.create_task(slow())
        await asyncio.sleep(0.5)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    record = session.records[-1]
    assert record.outcome == "cancelled"
    assert record.cgroup is not None
    assert not os.path.exists(record.cgroup)


# -- inside -----------------------------------------------------------------------------------


def test_child_processes_of_the_body_are_in_the_calls_cgroup(session: Session) -> None:
    @agentcgroup.isolate
    def started() -> str:
        return subprocess.run(
            ["cat", "/proc/self/cgroup"], capture_output=True, text=True, check=True
        ).stdout

    inside = started().strip().rpartition("\n")[2].rpartition("::")[2]
    cgroup = session.records[-1].cgroup
    assert cgroup is not None
    assert cgroup.endswith(inside)


def test_register_in_a_worker_changes_nothing(session: Session) -> None:
    @agentcgroup.isolate
    def registering() -> tuple[bool, str]:
        inner = agentcgroup.register()
        with agentcgroup.call("inner"):
            told = subprocess.run(["cat", "/proc/self/cgroup"], capture_output=True, text=True)
        return inner._services.working, told.stdout.strip().rpartition("\n")[2].rpartition("::")[2]

    working, inside = registering()
    assert not working
    (record,) = session.records
    assert record.cgroup is not None
    assert record.cgroup.endswith(inside)


def test_processes_started_here_and_the_worker_share_the_cgroup(session: Session) -> None:
    from agentcgroup.isolation import round_trip

    def inside() -> str:
        with open("/proc/self/cgroup") as file:
            return file.read()

    with agentcgroup.call("both") as call:
        first = subprocess.run(["cat", "/proc/self/cgroup"], capture_output=True, text=True)
        assert round_trip.run(call, inside, (), {}) == first.stdout
        then = subprocess.run(["cat", "/proc/self/cgroup"], capture_output=True, text=True)
        assert then.stdout == first.stdout
    with agentcgroup.call("both") as call:
        seen = round_trip.run(call, inside, (), {})
        then = subprocess.run(["cat", "/proc/self/cgroup"], capture_output=True, text=True)
        assert then.stdout == seen != first.stdout
    assert [record.isolation for record in session.records] == ["process"] * 2


def test_a_block_runs_inline_and_its_record_says_so(session: Session) -> None:
    with agentcgroup.call("block", isolation="process"):
        pass
    assert session.records[-1].isolation == "inline"
