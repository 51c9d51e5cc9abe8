"""The benchmark's command line: ``python -m benchmarks.isolation --help``."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.harness import machine
from benchmarks.isolation import report
from benchmarks.isolation.tools import TOOLS


def main() -> None:
    """Measure, or load what was measured; print, and save where asked to."""
    options = _parser().parse_args()
    if options.load:
        result = json.loads(options.load.read_text())
    else:
        result = {"machine": machine.facts(), "cells": [_cell(job) for job in _jobs(options)]}
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    if options.save:
        report.save(options.save, result)
    print(report.table(result))


def _jobs(options: argparse.Namespace) -> list[dict[str, Any]]:
    parents, gaps = ([50], [0.0]) if options.quick else ([50, 1024], [0.0, 40.0])
    return [
        {"tool": name, "parent_mb": size, "gap_ms": gap}
        | {"runs": 5 if options.quick else max(20, int(options.runs * tool.runs))}
        for name, tool in TOOLS.items()
        if options.tool in (None, name)
        for size in parents
        for gap in gaps
    ]


def _cell(job: dict[str, Any]) -> dict[str, Any]:
    """Measure one cell in a process of its own."""
    print(f"measuring {job} ...", file=sys.stderr)
    command = [sys.executable, "-m", "benchmarks.isolation.cell", json.dumps(job)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"the cell failed with status {done.returncode}; what it says is above")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.isolation",
        description="What a tool's body costs in a worker process in its call's cgroup, against a "
        "direct call, loky, pebble and concurrent.futures.",
    )
    parser.add_argument("--quick", action="store_true", help="a few runs of the smallest cells")
    parser.add_argument("--tool", choices=list(TOOLS), help="only this tool")
    parser.add_argument("--runs", type=int, default=200, help="of each way in a cell (200)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there too")
    parser.add_argument("--load", type=Path, metavar="FILE", help="take this result; no measuring")
    parser.add_argument("--save", metavar="NAME", help="keep the result under this name")
    return parser


if __name__ == "__main__":
    main()
