"""Which tests differ between two runs of a suite."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from tests.upstream import running
from tests.upstream.running import Outcomes
from tests.upstream.suites import NONE, Suite

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: The differences that have to be, with their reasons.
_EXPECTED: Final = Path(__file__).with_name("expected.toml")

#: How often a difference is run again before it is one.
_REPEATS: Final = 2

#: A test's outcomes in two runs, None where it did not run.
_Twice = tuple[str | None, str | None]


@dataclass
class Comparison:
    """One suite in one mode beside the same without agentcgroup.

    Attributes:
        plain: without agentcgroup.
        ours: in the mode.
        differ: tests whose outcome differs, also each time that their files run again.
        expected: those of `differ` for which `expected.toml` has a reason, with the reason.
        unsteady: tests that differed in the first runs only, or in both modes.
    """

    plain: Outcomes
    ours: Outcomes
    differ: list[str] = field(default_factory=list)
    expected: dict[str, str] = field(default_factory=dict)
    unsteady: list[str] = field(default_factory=list)

    @property
    def surprises(self) -> list[str]:
        """The tests that differ without a reason."""
        return [test for test in self.differ if test not in self.expected]


def compare(suite: Suite, mode: str, plain: Outcomes, ours: Outcomes) -> Comparison:
    """Compare two runs; the files of tests that differ without a reason run again in both modes."""
    found = Comparison(plain, ours)
    if plain.broken or ours.broken:  # neither a count nor a difference means anything
        broken = plain if plain.broken else ours
        found.differ = [test for test in broken.of if test.endswith(running.RUN)]
        return found
    found.differ = _different(plain, ours)
    _expect(found, suite, mode)
    for _ in range(_REPEATS):
        doubted = found.surprises
        if not doubted:
            break
        files = () if suite.in_package else running.files(doubted)
        plain_again = running.run(suite, NONE, files)
        ours_again = running.run(suite, mode, files)
        for test in doubted:
            before = plain.of.get(test), plain_again.of.get(test)
            after = ours.of.get(test), ours_again.of.get(test)
            if not _is_confirmed(before, after):
                found.differ.remove(test)
                found.unsteady.append(test)
    return found


def _is_confirmed(before: _Twice, after: _Twice) -> bool:
    """Return whether further runs repeat a difference, or have no outcome that denies it."""
    ran_once = None not in (before[0], after[0]) and None in (before[1], after[1])
    return ran_once or not any(outcome in before for outcome in after)


def _expect(found: Comparison, suite: Suite, mode: str) -> None:
    """Note for which of the tests that differ `expected.toml` has a reason."""
    for row in tomllib.loads(_EXPECTED.read_text(encoding="utf-8"))["expected"]:
        if row["mode"] == mode and row["suite"] in ("*", suite.name):
            for test in found.differ:
                if _matches(row, test, found.ours.texts.get(test, "")):
                    found.expected.setdefault(test, row["reason"])


def _matches(row: dict[str, Any], test: str, text: str) -> bool:
    """Say whether a row names a test, or a part of its traceback."""
    named = any(test == name or fnmatchcase(test, name) for name in row.get("tests", ()))
    return named or any(part in text for part in row.get("texts", ()))


def _different(plain: Outcomes, ours: Outcomes) -> list[str]:
    every = [*plain.of, *(test for test in ours.of if test not in plain.of)]
    return [test for test in every if plain.of.get(test) != ours.of.get(test)]
