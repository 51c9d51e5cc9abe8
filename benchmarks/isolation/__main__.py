"""The benchmark's command line: ``python -m benchmarks.isolation --help``."""

from __future__ import annotations

import argparse
from functools import partial

from benchmarks.harness import machine
from benchmarks.harness.cells import Job, measured
from benchmarks.harness.report import Result
from benchmarks.isolation.report import REPORT
from benchmarks.isolation.tools import TOOLS


def main() -> None:
    """Measure, or load a result; print it, and save it where an option says so."""
    options = _parser().parse_args()
    REPORT.finish(options, partial(_measure, options))


def _measure(options: argparse.Namespace) -> Result:
    return {
        "machine": machine.facts(),
        "cells": [measured("benchmarks.isolation.cell", job) for job in _jobs(options)],
    }


def _jobs(options: argparse.Namespace) -> list[Job]:
    parents, gaps = ([50], [0.0]) if options.quick else ([50, 1024], [0.0, 40.0])
    return [
        {"tool": name, "parent_mb": size, "gap_ms": gap}
        | {"runs": 5 if options.quick else max(20, int(options.runs * tool.runs))}
        for name, tool in TOOLS.items()
        if options.tool in (None, name)
        for size in parents
        for gap in gaps
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.isolation",
        description="Measure a tool's body in a worker process in its call's cgroup, and compare "
        "it with a direct call, loky, pebble and concurrent.futures.",
    )
    parser.add_argument("--quick", action="store_true", help="a few runs of the smallest cells")
    parser.add_argument("--tool", choices=list(TOOLS), help="only this tool")
    parser.add_argument("--runs", type=int, default=200, help="runs of each way in a cell (200)")
    REPORT.add_options(parser)
    return parser


if __name__ == "__main__":
    main()
