"""A plugin of pytest that runs a suite in one mode, and writes each test's outcome to a file.

It runs in the virtualenv of the suite. Without agentcgroup, it imports nothing of ours.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
from collections.abc import Callable, Generator
from typing import Any

import pytest
from _pytest.unittest import TestCaseFunction

#: From the least to the most; a test has several phases.
_ORDER = ("passed", "xpassed", "xfailed", "skipped", "failed", "error")

_CONFIG: dict[str, Any] = {"isolated": {"limits": {"call": {"isolation": "process"}}}}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("agentcgroup")
    group.addoption("--upstream-mode", default="none")
    group.addoption("--upstream-report", default=os.devnull)
    group.addoption("--upstream-skip", default="", help="a file with the tests not to run")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Register before the suite imports its framework, as a program does in its first line."""
    mode = early_config.known_args_namespace.upstream_mode
    if mode != "none":
        import agentcgroup

        agentcgroup.register(config=_CONFIG.get(mode, {}))
    if mode == "called":
        early_config.pluginmanager.register(_InCalls())


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Report(config.getoption("--upstream-report")))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    skip = _ids(config.getoption("--upstream-skip"))
    items[:] = [item for item in items if item.nodeid not in skip]


def _ids(path: str) -> set[str]:
    if not path:
        return set()
    with open(path, encoding="utf-8") as lines:
        return {json.loads(line) for line in lines}


class _Report:
    """Writes one line at a test's start and one at its end: a crash leaves a start without end."""

    def __init__(self, path: str) -> None:
        # Unbuffered, since the process may die; the suite's children must not write a copy.
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115
        self._pid = os.getpid()
        self._outcome: dict[str, str] = {}
        self._text: dict[str, str] = {}

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._write({"start": nodeid})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        outcome = _outcome(report)
        before = self._outcome.get(report.nodeid, "passed")
        self._outcome[report.nodeid] = max(before, outcome, key=_ORDER.index)
        if outcome in ("failed", "error"):
            self._text.setdefault(report.nodeid, report.longreprtext[-4000:])

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._write({"end": report.nodeid, "is": "error", "text": report.longreprtext[-4000:]})

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        outcome = self._outcome.pop(nodeid, "error")
        self._write({"end": nodeid, "is": outcome, "text": self._text.pop(nodeid, "")})

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Tell that only the interpreter's end is left, which may hang."""
        self._write({"finish": ""})

    def _write(self, line: dict[str, str]) -> None:
        if os.getpid() == self._pid:
            self._file.write(json.dumps(line).encode() + b"\n")


def _outcome(report: pytest.TestReport) -> str:
    if hasattr(report, "wasxfail"):
        return "xfailed" if report.skipped else "xpassed"
    if report.failed and report.when != "call":
        return "error"
    return report.outcome


class _InCalls:
    """Runs each test function inside a call."""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
        before = pyfuncitem.obj
        pyfuncitem.obj = _in_call(before, pyfuncitem.name)
        try:
            return (yield)
        finally:
            pyfuncitem.obj = before

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Run a test of unittest with its setUp in a call; these pass no `pytest_pyfunc_call`."""
        import agentcgroup

        if not isinstance(item, TestCaseFunction):
            return (yield)
        if inspect.iscoroutinefunction(item.obj):  # runs in a context made with the test case
            setattr(item.instance, item.name, _in_call(item.obj, item.name))
            return (yield)
        with agentcgroup.call(item.name):
            return (yield)


def _in_call(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    import agentcgroup

    if not inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            with agentcgroup.call(name):
                return function(*args, **kwargs)

        return run

    @functools.wraps(function)
    async def arun(*args: Any, **kwargs: Any) -> Any:
        if _on_asyncio():
            async with agentcgroup.call(name):
                return await function(*args, **kwargs)
        with agentcgroup.call(name):  # trio
            return await function(*args, **kwargs)

    return arun


def _on_asyncio() -> bool:
    import asyncio

    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False
