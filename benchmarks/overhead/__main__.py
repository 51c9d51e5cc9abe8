"""The benchmark's command line: ``python -m benchmarks.overhead --help``."""

from __future__ import annotations

import argparse
import os
import shutil
from functools import partial
from typing import Any

from benchmarks.harness import machine
from benchmarks.harness.cells import Job, measured
from benchmarks.harness.report import Result
from benchmarks.overhead.launchers import LAUNCHERS
from benchmarks.overhead.report import REPORT

_EPILOG = """\
examples:
  python -m benchmarks.overhead                    every cell; takes some minutes
  python -m benchmarks.overhead --quick            a test of the benchmark; ignore its figures
  python -m benchmarks.overhead --tool launch --gaps 40 --launchers ''
                                                   agentcgroup against plain, calls 40 ms apart
  python -m benchmarks.overhead --save native      write results/native.json and RESULTS.md, too

with every controller, in a virtual machine (see python -m tests.lab --help):
  python -m tests.lab run --kernel 7.2 --memory 4G --out /tmp/bench -- \\
      .venv/bin/python -m benchmarks.overhead --json /tmp/bench/vm.json
  python -m benchmarks.overhead --load /tmp/bench/vm.json --save vm-7.2

on a machine with other work: a real-time priority keeps that work out of the measured runs, and
makes the ratios of calls that are some ms apart a little better than on an idle machine:
  chrt -f 50 .venv/bin/python -m benchmarks.overhead

Compare ratios, not times: the variants took turns in one process, and times depend on the machine.
"""


def main() -> None:
    """Measure or load a result; print it, and save it as the options ask."""
    options = _parser().parse_args()
    REPORT.finish(options, partial(_measure, options))


def _measure(options: argparse.Namespace) -> Result:
    jobs = _jobs(options)
    return {
        "machine": machine.facts(),
        "cells": [measured("benchmarks.overhead.worker", job, _prefix()) for job in jobs],
    }


def _jobs(options: argparse.Namespace) -> list[Job]:
    runs, parents, gaps = options.runs, options.parents, options.gaps
    if options.quick:
        runs, parents, gaps = 10, [50], [0.0]
    # Ten times as many runs: an inline call takes a tenth of the time of the fastest process.
    inline: Job = {"tool": "inline", "parent_mb": 0, "runs": 10 * runs}
    launches = [
        {"tool": "launch", "parent_mb": size, "gap_ms": gap, "runs": runs}
        | {"launchers": options.launchers}
        for size in parents
        for gap in gaps
    ]
    return [job for job in (inline, *launches) if options.tool in (None, job["tool"])]


def _prefix() -> list[str]:
    """Return words that mount cgroup v2 where crun expects it, on a machine that has v1 there."""
    unified = "/sys/fs/cgroup/unified"
    able = os.path.ismount(unified) and os.geteuid() == 0 and shutil.which("unshare")
    if not able:
        return []
    mount = f'mount --bind {unified} /sys/fs/cgroup && exec "$0" "$@"'
    return ["unshare", "--mount", "sh", "-c", mount]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead",
        description="Measure the time of a tool call with agentcgroup, without it, and with the "
        "alternatives: bubblewrap, crun, a shell wrapper.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="a few runs of the smallest cells")
    parser.add_argument("--tool", choices=["inline", "launch"], help="only this kind of tool")
    parser.add_argument("--runs", type=int, default=300, help="runs of each variant per cell (300)")
    parser.add_argument(
        "--parents",
        type=_numbers(int),
        default=[50, 1024],
        metavar="MB,...",
        help="memory in MB that the agent's process holds beside its modules (50,1024)",
    )
    parser.add_argument(
        "--gaps",
        type=_numbers(float),
        default=[0.0, 40.0],
        metavar="MS,...",
        help="milliseconds from one call to the next; 0: none (0,40)",
    )
    parser.add_argument(
        "--launchers",
        type=_launchers,
        default=list(LAUNCHERS),
        metavar="NAME,...",
        help=f"the alternatives to measure; '': none ({','.join(LAUNCHERS)})",
    )
    REPORT.add_options(parser)
    return parser


def _numbers(kind: type[Any]) -> Any:
    def numbers(text: str) -> list[Any]:
        return [kind(number) for number in text.split(",")]

    return numbers


def _launchers(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    unknown = sorted(set(names) - set(LAUNCHERS))
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(LAUNCHERS)}")
    return names


if __name__ == "__main__":
    main()
