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


@dataclass
class Comparison:
    """One suite in one mode beside the same without agentcgroup.

    Attributes:
        plain: without agentcgroup.
        ours: in the mode.
        differ: tests whose outcome differs, again when their files run alone.
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
    """Compare two runs; the files with tests that differ run again in both modes."""
    found = Comparison(plain, ours)
    if plain.broken or ours.broken:  # neither a count nor a difference means anything
        broken = plain if plain.broken else ours
        found.differ = [test for test in broken.of if test.endswith(running.RUN)]
        return found
    first = _different(plain, ours)
    if not first:
        return found
    files = running.files(first)
    plain_again = running.run(suite, NONE, files)
    ours_again = running.run(suite, mode, files)
    for test in first:
        seen = {plain.of.get(test), plain_again.of.get(test)}
        again = ours_again.of.get(test)
        if again in seen or ours.of.get(test) in seen:
            found.unsteady.append(test)
        else:
            found.differ.append(test)
    rows = tomllib.loads(_EXPECTED.read_text(encoding="utf-8"))["expected"]
    for row in rows:
        if row["mode"] == mode and row["suite"] in ("*", suite.name):
            for test in found.differ:
                if _matches(row, test, ours.texts.get(test, "")):
                    found.expected.setdefault(test, row["reason"])
    return found


def _matches(row: dict[str, Any], test: str, text: str) -> bool:
    """Say whether a row names a test, or a part of its traceback."""
    named = any(test == name or fnmatchcase(test, name) for name in row.get("tests", ()))
    return named or any(part in text for part in row.get("texts", ()))


def _different(plain: Outcomes, ours: Outcomes) -> list[str]:
    every = [*plain.of, *(test for test in ours.of if test not in plain.of)]
    return [test for test in every if plain.of.get(test) != ours.of.get(test)]
