"""The comparison of other projects' tests finds what differs, what dies and what cannot run."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.upstream import environments, running
from tests.upstream.comparing import Comparison, compare
from tests.upstream.running import Outcomes
from tests.upstream.suites import CALLED, NONE, SUITES, Suite

TESTS = """
import os
import unittest
import agentcgroup

def in_call():
    return agentcgroup.current_call() is not None

def test_same():
    pass

def test_outside():
    assert not in_call()

def test_dies_inside():
    if in_call():
        os._exit(3)

def test_after():
    assert os.getpid() > 0

class Cases(unittest.TestCase):
    def setUp(self):
        self.inside = in_call()

    def test_outside(self):
        self.assertFalse(self.inside)

class Async(unittest.IsolatedAsyncioTestCase):
    async def test_outside(self):
        self.assertFalse(in_call())
"""

SUITE = Suite(
    "toy==1",
    "toy",
    (),
    ("test_toy.py",),
    (CALLED,),
    options=("-p", "pytest_timeout"),
    variables={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Suite:
    """A suite that needs neither a virtualenv nor a source distribution."""

    def unpack(suite: Suite, into: Path) -> Path:
        into.mkdir()
        (into / "test_toy.py").write_text(TESTS)
        return into

    monkeypatch.setattr(environments, "python", lambda _: Path(sys.executable))
    monkeypatch.setattr(environments, "tests", unpack)
    monkeypatch.setenv("AGENTCGROUP_UPSTREAM_CACHE", str(tmp_path / "cache"))
    return SUITE


def names(tests: list[str]) -> set[str]:
    return {test.partition("::")[2] for test in tests}


def test_what_differs_inside_a_call_is_found_once_more_and_the_rest_runs(toy: Suite) -> None:
    plain, ours = running.baseline(toy), running.run(toy, CALLED)
    assert set(plain.of.values()) == {"passed"}
    assert len(plain.of) == len(ours.of) == 6
    assert ours.of["test_toy.py::test_dies_inside"] == "died"
    assert ours.of["test_toy.py::test_after"] == "passed"
    found = compare(toy, CALLED, plain, ours)
    differ = {"test_outside", "test_dies_inside", "Cases::test_outside", "Async::test_outside"}
    assert names(found.surprises) == differ
    assert found.unsteady == []


def test_a_run_that_does_not_start_is_one_difference_and_no_baseline(toy: Suite) -> None:
    broken = replace(toy, options=("--no-such-option",))
    plain = running.baseline(broken)
    assert plain.broken
    found: Comparison = compare(broken, CALLED, plain, Outcomes())
    assert found.surprises == ["test_toy.py (the run)"]
    assert "no-such-option" in plain.texts["test_toy.py (the run)"]
    assert not list((environments.cache() / "baselines").glob("*"))


def test_a_difference_stands_where_the_second_run_does_not_start(
    toy: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, ours = running.baseline(toy), running.run(toy, CALLED)
    monkeypatch.setattr(running, "files", lambda _: ["no_such_file.py"])
    found = compare(toy, CALLED, plain, ours)
    assert "test_outside" in names(found.surprises)
    assert found.unsteady == []


def test_tests_in_a_package_run_again_with_all_others(
    toy: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their ids are relative to the package, so they name no file where pytest runs."""
    package = tmp_path / "installed" / "toy_package"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "test_toy.py").write_text(TESTS)
    where = {**toy.variables, "PYTHONPATH": f"{environments.PLUGIN}:{package.parent}"}
    inside = replace(toy, tests=("--pyargs", "toy_package"), variables=where)
    plain, ours = running.baseline(inside), running.run(inside, CALLED)
    found = compare(inside, CALLED, plain, ours)
    assert "test_outside" in names(found.surprises)
    assert found.unsteady == []


def test_every_row_can_run() -> None:
    assert len({suite.name for suite in SUITES}) == len(SUITES)
    for suite in SUITES:
        assert NONE not in suite.modes
        assert suite.modes
        assert "==" in suite.package
        assert set(suite.quick) <= set(suite.modes)
