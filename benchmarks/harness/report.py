"""Tables in Markdown, and the files of a benchmark: NAME.json, and RESULTS.md made of all these."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: The figures of a benchmark, as plain data for JSON; the key `machine` has `machine.facts`.
Result = dict[str, Any]


def head(*titles: str) -> list[str]:
    """Return the first two lines of a table; a title that ends in ":" is aligned to the right."""
    rules = ("--:" if title.endswith(":") else "---" for title in titles)
    return [row([title.removesuffix(":") for title in titles]), f"|{'|'.join(rules)}|"]


def row(cells: Sequence[object]) -> str:
    """Return one further line of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def milliseconds(microseconds: float) -> str:
    """Return a time in microseconds as milliseconds, for a cell of a table."""
    return f"{microseconds / 1000:.3f}"


@dataclass(frozen=True)
class Report:
    """How a benchmark prints and keeps its results.

    Attributes:
        head: the beginning of RESULTS.md.
        table: returns a result as Markdown.
        folder: the folder of RESULTS.md and of the folder `results`, which has a NAME.json for
            each kept result.
    """

    head: str
    table: Callable[[Result], str]
    folder: Path

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Add the options that `finish` reads."""
        parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result there")
        parser.add_argument(
            "--load", type=Path, metavar="FILE", help="print this result instead of measuring"
        )
        parser.add_argument(
            "--save", metavar="NAME", help="keep the result as NAME.json, in RESULTS.md"
        )

    def finish(self, options: argparse.Namespace, measure: Callable[[], Result]) -> None:
        """Measure or load a result; print it, and save it as the options ask."""
        result = json.loads(options.load.read_text()) if options.load else measure()
        if options.json:
            _write(options.json, result)
        if options.save:
            self._save(options.save, result)
        print(self.table(result))

    def document(self) -> str:
        """Return the text of RESULTS.md: the head, and the table of every kept result."""
        files = (self.folder / "results").glob("*.json")
        kept = {file.stem: json.loads(file.read_text()) for file in files}
        sections = [f"## {name}\n\n{self.table(kept[name])}" for name in sorted(kept)]
        return "\n".join([self.head, *sections])

    def _save(self, name: str, result: Result) -> None:
        results = self.folder / "results"
        results.mkdir(exist_ok=True)
        _write(results / f"{name}.json", result)
        (self.folder / "RESULTS.md").write_text(self.document())


def _write(file: Path, result: Result) -> None:
    file.write_text(json.dumps(result, indent=2) + "\n")
