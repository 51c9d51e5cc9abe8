"""Process pools and managers that the app holds belong to the agent, not to a call."""

from __future__ import annotations

import concurrent.futures
import gc
import multiprocessing
import multiprocessing.pool
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import billiard.pool
import joblib
import loky
import pebble
import pytest

import agentcgroup
from agentcgroup import CgroupUnavailable, LimitExceeded, Session
from agentcgroup.spawn import placement
from agentcgroup.spawn.pools import PoolProcesses
from tests.support.processes import SOON, alive, ended, until


@pytest.fixture
def session() -> Iterator[Session]:
    yield agentcgroup.register("langchain", config={})
    agentcgroup.unregister()


def _square(number: int) -> int:
    return number * number


class _Used:
    """A pool of some library: `run` has its processes run a function, `pids` are its processes."""

    def __init__(self, pool: Any, run: Callable[..., Any], end: Callable[[], object]) -> None:
        self.pool = pool
        self.run = run
        self.end = end

    def pids(self) -> set[int]:
        return {self.run(os.getpid) for _ in range(4)}


def _executor(context: str) -> Callable[[], _Used]:
    def make() -> _Used:
        pool = concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context(context))
        return _Used(pool, lambda *call: pool.submit(*call).result(), pool.shutdown)

    return make


def _pool(context: str) -> Callable[[], _Used]:
    def make() -> _Used:
        pool = multiprocessing.get_context(context).Pool(2)
        return _Used(pool, lambda run, *args: pool.apply(run, args), pool.terminate)

    return make


def _billiard() -> _Used:
    pool = billiard.pool.Pool(2)
    return _Used(pool, lambda run, *args: pool.apply(run, args), pool.terminate)


def _loky() -> _Used:
    pool = loky.get_reusable_executor(2)
    return _Used(
        pool,
        lambda *call: loky.get_reusable_executor(2).submit(*call).result(),
        lambda: pool.shutdown(kill_workers=True),
    )


def _joblib() -> _Used:
    def run(function: Callable[..., Any], *args: Any) -> Any:
        one, _ = joblib.Parallel(n_jobs=2)(joblib.delayed(function)(*args) for _ in range(2))
        return one

    from joblib.externals.loky import get_reusable_executor

    return _Used(None, run, lambda: get_reusable_executor(reuse=True).shutdown(kill_workers=True))


def _pebble() -> _Used:
    pool = pebble.ProcessPool(2)

    def end() -> None:
        pool.stop()
        pool.join()

    return _Used(pool, lambda run, *args: pool.schedule(run, args).result(), end)


def _manager() -> _Used:
    manager = multiprocessing.Manager()

    def run(function: Callable[..., Any], *args: Any) -> Any:
        if function is os.getpid:
            return manager._process.pid
        return manager.list([function(*args)])[0]

    return _Used(manager, run, manager.shutdown)


_POOLS: dict[str, Callable[[], _Used]] = {
    "executor fork": _executor("fork"),
    "executor spawn": _executor("spawn"),
    "executor forkserver": _executor("forkserver"),
    "Pool fork": _pool("fork"),
    "Pool spawn": _pool("spawn"),
    "Pool forkserver": _pool("forkserver"),
    "billiard": _billiard,
    "loky": _loky,
    "joblib": _joblib,
    "pebble": _pebble,
    "Manager": _manager,
}


def _cgroup(pid: int) -> str:
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return next(line.split("::", 1)[1] for line in lines if line.startswith("0::"))


def _in_background(pids: set[int]) -> bool:
    return all("/agent-" in (path := _cgroup(pid)) and path.endswith("/background") for pid in pids)


@pytest.mark.parametrize("make", _POOLS.values(), ids=_POOLS)
def test_a_pool_made_in_a_call_serves_later_calls(
    session: Session, make: Callable[[], _Used]
) -> None:
    """Its limits hold for the pool while the call runs; then the agent owns it."""
    with agentcgroup.call("first") as first:
        used = make()
        assert used.run(_square, 3) == 9
        pids = used.pids()
        assert first.contained is not None
        assert pids <= set(first.contained.group.pids())
    try:
        assert _in_background(pids)
        for _ in range(2):
            with agentcgroup.call("later"):
                assert used.run(_square, 4) == 16
        assert used.run(_square, 5) == 25
        first_record, *later = session.records
        assert (first_record.reason, first_record.used_helpers) == (None, True)
        assert [(record.outcome, record.reason) for record in later] == [("ok", None)] * 2
        assert all(record.used_helpers for record in later)
        assert all(map(alive, pids))
    finally:
        used.end()
    assert ended(*pids)


@pytest.mark.parametrize("make", _POOLS.values(), ids=_POOLS)
def test_a_pool_serves_the_app_after_the_run(make: Callable[[], _Used]) -> None:
    session = agentcgroup.register("langchain", config={})
    with agentcgroup.call("first"):
        used = make()
        pids = used.pids()
    session.close()
    assert all(map(alive, pids))
    assert {_cgroup(pid) for pid in pids} == {_cgroup(os.getpid())}
    assert used.run(_square, 3) == 9
    used.end()
    assert ended(*pids)


@pytest.mark.parametrize("first", ["agentcgroup", "multiprocessing.pool"])
def test_a_program_ends_with_a_pool_in_a_global(first: str) -> None:
    """Whichever registers its end with Python first."""
    done = subprocess.run(
        [sys.executable, "-c", _HOLDS, first], capture_output=True, text=True, timeout=SOON
    )
    assert (done.returncode, done.stdout) == (0, "9\n")
    assert "Traceback" not in done.stderr


_HOLDS = """
import importlib, sys
importlib.import_module(sys.argv[1])
import agentcgroup, multiprocessing
agentcgroup.register()
def square(x): return x * x
with agentcgroup.call("tool"):
    pool = multiprocessing.get_context("fork").Pool(2)
    print(pool.apply(square, (3,)))
"""


def test_an_executor_made_outside_starts_its_workers_in_the_agent(session: Session) -> None:
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        with agentcgroup.agent("coder"), agentcgroup.call("first"):
            assert pool.submit(_square, 3).result() == 9
            pids = set(pool._processes)
            assert _in_background(pids)
        assert pool.submit(_square, 4).result() == 16
        assert set(pool._processes) >= pids
    (record,) = session.records
    assert (record.reason, record.cgroup, record.used_helpers) == (None, None, True)


def test_a_timeout_does_not_break_the_pool_of_the_app(session: Session) -> None:
    """The workers of one that the app has made are not those of the call that times out."""
    with concurrent.futures.ProcessPoolExecutor(1) as pool:

        def hang() -> None:
            with agentcgroup.call("slow", timeout="1s"):
                assert pool.submit(_square, 3).result() == 9
                subprocess.run(["sleep", "60"])

        with pytest.raises(LimitExceeded):
            hang()
        assert pool.submit(_square, 4).result() == 16


def test_a_pool_replaces_a_worker_after_the_call_that_made_it(session: Session) -> None:
    """On a thread of the pool, which outlives the call."""
    with agentcgroup.call("first"):
        pool = multiprocessing.Pool(1, maxtasksperchild=1)
        before = pool.apply(os.getpid)
    try:
        for _ in range(3):
            after = pool.apply_async(_where).get(30)
            assert after.endswith("/background")
        assert not alive(before)
    finally:
        pool.terminate()


def _where() -> str:
    return _cgroup(os.getpid())


def test_a_pool_that_nobody_holds_ends_with_its_call(session: Session) -> None:
    def tool() -> set[int]:
        pool = concurrent.futures.ProcessPoolExecutor(2)
        return {pool.submit(os.getpid).result() for _ in range(4)}

    with agentcgroup.call("tool"):
        pids = tool()
        gc.collect()
    assert ended(*pids)


def test_a_plain_process_is_left_over(session: Session) -> None:
    """Daemon or not: nobody waits for it, and Python has no object that ends it."""
    held = []
    with agentcgroup.call("tool") as call:
        for daemon in (True, False):
            process = multiprocessing.get_context("fork").Process(
                target=time.sleep, args=(60,), daemon=daemon
            )
            process.start()
            held.append(process)
        # A forked child joins the cgroup itself, and is killed there when the call is over.
        assert until(lambda: {one.pid for one in held} <= set(call.pids()))
    assert ended(*(process.pid for process in held))
    for process in held:
        process.join()
    assert session.records[0].reason == "leftovers"


def _leave(path: str) -> int:
    child = subprocess.Popen(["sleep", "60"], start_new_session=True)
    Path(path).write_text(str(child.pid))
    return child.pid


def _daemonize(path: str) -> None:
    subprocess.run(["sh", "-c", f"sleep 60 & echo $! > {path}"], check=True)


def test_what_a_worker_has_left_is_told_apart(session: Session, tmp_path: Path) -> None:
    """A running child of a worker stays with it; a daemon that a task left is left over."""
    with agentcgroup.call("tool"):
        pool = multiprocessing.get_context("fork").Pool(1)
        kept = pool.apply(_leave, (str(tmp_path / "kept"),))
        pool.apply(_daemonize, (str(tmp_path / "left"),))
        left = int((tmp_path / "left").read_text())
        assert alive(left)
    try:
        assert ended(left)
        assert alive(kept)
        assert pool.apply(_square, (4,)) == 16
        assert session.records[0].reason == "leftovers"
    finally:
        pool.terminate()


def test_a_pool_of_a_worker_process_ends_with_it(session: Session) -> None:
    """With isolation, the tool's process holds it, not the app's."""
    run = agentcgroup.isolate(isolation="process")(_made_in_a_worker)
    pids = run()
    assert ended(*pids)


_held: list[Any] = []


def _made_in_a_worker() -> list[int]:
    pool = multiprocessing.get_context("fork").Pool(2)
    _held.append(pool)
    return [process.pid for process in pool._pool]


def test_a_pool_of_a_call_inside_another_outlives_both(session: Session) -> None:
    with agentcgroup.agent("outer"), agentcgroup.call("outer"):
        with agentcgroup.agent("inner"), agentcgroup.call("inner"):
            pool = multiprocessing.Pool(1)
            pid = pool.apply(os.getpid)
        assert pool.apply(os.getpid) == pid
    try:
        assert pool.apply_async(os.getpid).get(30) == pid
        assert _in_background({pid})
    finally:
        pool.terminate()


def test_threads_of_a_thread_pool_are_no_helpers(session: Session) -> None:
    with agentcgroup.call("tool"):
        pool = multiprocessing.pool.ThreadPool(2)
        assert pool.map(_square, range(3)) == [0, 1, 4]
        pool.terminate()
    (record,) = session.records
    assert (record.cgroup, record.used_helpers) == (None, False)


def test_a_pool_without_cgroups_serves_later_calls(tmp_path: Path) -> None:
    session = agentcgroup.register("langchain", config={"cgroup_root": "/no/such/cgroup"})
    try:
        with agentcgroup.call("first") as call:
            pool = multiprocessing.Pool(1)
            pid = pool.apply(os.getpid)
            child = pool.apply(_leave, (str(tmp_path / "child"),))
            sleeper = subprocess.Popen(["sleep", "60"])
            assert {pid, child} <= set(call.pids())
        assert sleeper.wait() != 0
        assert alive(child)
        with agentcgroup.call("later"):
            assert pool.apply_async(os.getpid).get(30) == pid
        assert [record.cgroup for record in session.records] == [None, None]
        pool.terminate()
    finally:
        agentcgroup.unregister()


class _Refusing:
    """A `scope.SpawnTarget` that gives no cgroup."""

    over = False

    def __init__(self) -> None:
        self.ended: list[int | None] = []

    def begin_spawn(self, failed: OSError | None = None) -> int | None:
        raise CgroupUnavailable("none is left")

    def end_spawn(self, pid: int | None) -> None:
        self.ended.append(pid)

    def note_child(self, pid: int) -> None:
        raise AssertionError(pid)

    def background(self) -> _Refusing:
        return self

    def note_helpers(self) -> None:
        raise AssertionError


def test_a_pool_that_gets_no_cgroup_says_why() -> None:
    """Each spawn that was begun is ended, and a second end, after an interrupt, changes nothing."""
    background = _Refusing()
    pool = PoolProcesses(None, background)
    with pytest.raises(CgroupUnavailable, match="none is left"):
        placement.place(pool, lambda _: 1, int)
    assert background.ended == [None]
    pool.end_spawn(None)
    assert background.ended == [None]
