"""Threads and work items get the current call; nothing that outlives the call keeps it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agentcgroup import propagation, scope


class Call:
    over = False

    def background(self) -> Call:
        return self

    def note_helpers(self) -> None:
        pass

    def begin_spawn(self, failed: OSError | None = None) -> int | None:
        return None

    def end_spawn(self, pid: int | None) -> None:
        pass

    def note_child(self, pid: int) -> None:
        pass


@pytest.fixture(autouse=True)
def installed() -> Iterator[None]:
    propagation.install()
    yield
    propagation.uninstall()


@pytest.fixture
def call() -> Iterator[Call]:
    call = Call()
    token = scope.current.set(call)
    yield call
    scope.current.reset(token)


def seen_by(start: Callable[[Callable[[], None]], threading.Thread]) -> Any:
    seen: list[Any] = []
    thread = start(lambda: seen.append(scope.current.get()))
    thread.start()
    thread.join()
    return seen[0]


class Subclass(threading.Thread):
    """Overrides run, and does not call Thread.run."""

    def __init__(self, report: Callable[[], None]) -> None:
        super().__init__()
        self.report = report

    def run(self) -> None:
        self.report()


def with_own_run(report: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread()
    thread.run = report  # type: ignore[method-assign]
    return thread


@pytest.mark.parametrize(
    "start",
    [
        lambda report: threading.Thread(target=report),
        lambda report: threading.Timer(0, report),
        Subclass,
        with_own_run,
    ],
    ids=["target", "timer", "subclass", "attribute"],
)
def test_thread_gets_the_call(start: Any, call: Call) -> None:
    assert seen_by(start) is call


def test_thread_gets_every_variable() -> None:
    variables = (scope.current, scope.agent, scope.call_group)
    values = (Call(), object(), [])
    seen: list[Any] = []
    tokens = [variable.set(value) for variable, value in zip(variables, values, strict=True)]
    thread = threading.Thread(target=lambda: seen.extend(v.get() for v in variables))
    thread.start()
    for variable, token in zip(variables, tokens, strict=True):
        variable.reset(token)
    thread.join()
    assert all(got is put for got, put in zip(seen, values, strict=True))


def test_running_thread_has_no_replaced_run(call: Call) -> None:
    seen: list[Any] = []
    thread = threading.Thread(target=lambda: seen.append("run" in vars(thread)))
    thread.start()
    thread.join()
    assert seen == [False]


def test_thread_that_cannot_start_is_left_as_it_was(call: Call) -> None:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    with pytest.raises(RuntimeError, match="once"):
        thread.start()
    assert "run" not in vars(thread)


def test_thread_outside_of_a_call_has_none() -> None:
    assert seen_by(lambda report: threading.Thread(target=report)) is None


def test_work_item_gets_the_call_of_its_submitter() -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        for call in (Call(), None, Call(), None):
            token = scope.current.set(call)
            future = pool.submit(scope.current.get)
            scope.current.reset(token)
            assert future.result() is call


def test_worker_that_a_call_started_keeps_nothing_of_it() -> None:
    """Not even with the original submit, which sets no variable."""
    plain_submit = concurrent.futures.ThreadPoolExecutor.submit.__wrapped__  # type: ignore[attr-defined]
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        call = Call()
        token = scope.current.set(call)
        assert pool.submit(scope.current.get).result() is call
        scope.current.reset(token)
        assert plain_submit(pool, scope.current.get).result() is None
        gone = weakref.ref(call)
        del call, token
        gc.collect()
        assert gone() is None


def test_work_item_gets_its_arguments_and_raises_its_errors(call: Call) -> None:
    def work(*args: int, **kwargs: int) -> Any:
        if not args:
            raise KeyError("nothing to do")
        return args, kwargs

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert pool.submit(work, 1, 2, fn=3, self=4).result() == ((1, 2), {"fn": 3, "self": 4})
        with pytest.raises(KeyError, match="nothing to do"):
            pool.submit(work).result()


def test_map_propagates_the_call(call: Call) -> None:
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda _: scope.current.get(), range(3))) == [call] * 3


def test_process_pools_manager_thread_keeps_no_call(call: Call) -> None:
    class _ExecutorManagerThread(threading.Thread):
        pass

    assert seen_by(lambda report: _ExecutorManagerThread(target=report)) is None


def test_asyncio_threads_get_the_call(call: Call) -> None:
    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        return [
            await asyncio.to_thread(scope.current.get),
            await loop.run_in_executor(None, scope.current.get),
        ]

    assert asyncio.run(main()) == [call, call]


class Spy:
    """Another library's patch of the same functions, in the usual manner of such patches."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.undo: list[Callable[[], None]] = []

    def patch(self) -> None:
        for owner, name in (
            (threading.Thread, "start"),
            (threading.Thread, "run"),
            (concurrent.futures.ThreadPoolExecutor, "submit"),
        ):
            there = getattr(owner, name)

            def spying(
                *args: Any, _there: Callable[..., Any] = there, _name: str = name, **kwargs: Any
            ) -> Any:
                self.seen.append(_name)
                return _there(*args, **kwargs)

            setattr(owner, name, spying)
            self.undo.append(
                lambda owner=owner, name=name, there=there: setattr(owner, name, there)
            )

    def unpatch(self) -> None:
        while self.undo:
            self.undo.pop()()


@pytest.mark.parametrize("ours_first", [True, False])
def test_works_with_another_patch_of_the_same_functions(ours_first: bool, call: Call) -> None:
    spy = Spy()
    if ours_first:
        spy.patch()
    else:
        propagation.uninstall()
        spy.patch()
        propagation.install()
    try:
        assert seen_by(lambda report: threading.Thread(target=report)) is call
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            assert pool.submit(scope.current.get).result() is call
        assert {"start", "run", "submit"} <= set(spy.seen)
        propagation.uninstall()
        assert seen_by(lambda report: threading.Thread(target=report)) is None
    finally:
        spy.unpatch()


def test_uninstall_restores_the_functions() -> None:
    ours = threading.Thread.start, concurrent.futures.ThreadPoolExecutor.submit
    propagation.uninstall()
    theirs = threading.Thread.start, concurrent.futures.ThreadPoolExecutor.submit
    assert theirs == tuple(function.__wrapped__ for function in ours)  # type: ignore[attr-defined]
    propagation.install()
    propagation.install()
    assert threading.Thread.start.__wrapped__ is theirs[0]  # type: ignore[attr-defined]
