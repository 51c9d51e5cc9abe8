"""The ways to run a body in another process; each is started and warm before it is measured.

The pools of others have two workers each, which serve call after call in the app's own cgroup.
"agentcgroup" gives each call a fresh cgroup and a fresh worker; with "reuse", one worker and its
cgroup serve call after call.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any

import loky
import pebble

import agentcgroup
from benchmarks.isolation.tools import Tool

__all__ = ["POOLS", "Run", "opened"]

WORKERS = 2

#: Runs the body once and returns its result.
Run = Callable[..., Any]
Pool = Callable[[Tool], "contextlib.AbstractContextManager[Run]"]


@contextlib.contextmanager
def direct(tool: Tool) -> Iterator[Run]:
    """In this process: the function is called."""
    yield tool.body


@contextlib.contextmanager
def fresh(tool: Tool) -> Iterator[Run]:
    """In a worker that serves this one call."""
    yield agentcgroup.isolate("fresh", isolation="process")(tool.body)


@contextlib.contextmanager
def reused(tool: Tool) -> Iterator[Run]:
    """In a worker that serves call after call."""
    yield agentcgroup.isolate("reused", isolation="process", reuse=100_000)(tool.body)


@contextlib.contextmanager
def with_loky(tool: Tool) -> Iterator[Run]:
    """By loky's executor."""
    with loky.ProcessPoolExecutor(WORKERS) as pool:
        yield lambda *args: pool.submit(tool.body, *args).result()


@contextlib.contextmanager
def with_pebble(tool: Tool) -> Iterator[Run]:
    """By pebble's pool, which can kill a worker at a timeout."""
    with pebble.ProcessPool(WORKERS, context=multiprocessing.get_context("forkserver")) as pool:
        yield lambda *args: pool.submit(tool.body, 600, *args).result()


def _futures(method: str) -> Pool:
    @contextlib.contextmanager
    def futures(tool: Tool) -> Iterator[Run]:
        context = multiprocessing.get_context(method)
        with concurrent.futures.ProcessPoolExecutor(WORKERS, context) as pool:
            yield lambda *args: pool.submit(tool.body, *args).result()

    return futures


POOLS: dict[str, Pool] = {
    "direct": direct,
    "agentcgroup": fresh,
    "agentcgroup, reuse": reused,
    "loky": with_loky,
    "pebble": with_pebble,
    "futures, fork": _futures("fork"),
    "futures, forkserver": _futures("forkserver"),
}


def opened(tool: Tool, stack: contextlib.ExitStack) -> dict[str, Run]:
    """Start every way to run the tool, warm it up, and return its function."""
    runs = {name: stack.enter_context(pool(tool)) for name, pool in POOLS.items()}
    for run in runs.values():
        for _ in range(5):
            tool.read(run(*tool.arguments()))
    return runs
