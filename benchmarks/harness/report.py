"""A table of Markdown, and where it is kept: NAME.json, and RESULTS.md made of all of those."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: What a benchmark found: plain data that is JSON as it stands, with `machine` among it.
Result = dict[str, Any]


def head(*titles: str) -> list[str]:
    """Return a table's first two lines; "title:" is a column of numbers, which stand right."""
    rules = ("--:" if title.endswith(":") else "---" for title in titles)
    return [row([title.removesuffix(":") for title in titles]), f"|{'|'.join(rules)}|"]


def row(cells: Sequence[object]) -> str:
    """Return one of its other lines."""
    return f"| {' | '.join(map(str, cells))} |"


def milliseconds(microseconds: float) -> str:
    """Return a time as a table has it."""
    return f"{microseconds / 1000:.3f}"


@dataclass(frozen=True)
class Report:
    """How a benchmark tells what it found.

    Attributes:
        head: the beginning of RESULTS.md.
        table: makes Markdown of a result.
        folder: has RESULTS.md, and in `results` each kept result as NAME.json.
    """

    head: str
    table: Callable[[Result], str]
    folder: Path

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Add the options that `finish` goes by."""
        parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there too")
        parser.add_argument(
            "--load", type=Path, metavar="FILE", help="take this result; no measuring"
        )
        parser.add_argument("--save", metavar="NAME", help="keep the result under this name")

    def finish(self, options: argparse.Namespace, measure: Callable[[], Result]) -> None:
        """Measure, or load what was measured; print, and save where asked to."""
        result = json.loads(options.load.read_text()) if options.load else measure()
        if options.json:
            _write(options.json, result)
        if options.save:
            self._save(options.save, result)
        print(self.table(result))

    def document(self) -> str:
        """Return what RESULTS.md has to say: every kept result's table."""
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
