"""The benchmark's command line: ``python -m benchmarks.monitor --help``."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from agentcgroup import _native
from agentcgroup.cgroup import Cgroup
from agentcgroup.place.place import find, teardown
from benchmarks.harness import machine
from benchmarks.harness.report import Result
from benchmarks.monitor.report import REPORT, VARIANTS


def main() -> None:
    """Measure, or load a saved result; print it, and save it with --save."""
    options = _parser().parse_args()
    REPORT.finish(options, partial(_measure, options))


def _measure(options: argparse.Namespace) -> Result:
    where = machine.facts()
    with _holder() as command, _box() as box:
        inode = os.stat(box.path).st_ino
        works: dict[str, Callable[[], float]] = {
            "processes of a call": lambda: _processes(box, options.processes),
            "ping-pong of others": lambda: _ping_pong(options.trips),
        }
        taken: dict[str, dict[str, list[float]]] = {
            name: {variant: [] for variant in VARIANTS} for name in works
        }
        for at in range(options.rounds):
            first = at % len(VARIANTS)
            for variant in VARIANTS[first:] + VARIANTS[:first]:
                command(*(["off"] if variant == "off" else ["open", variant, inode]))
                _processes(box, options.processes // 4)  # loading programs has evicted the caches
                for name, work in works.items():
                    taken[name][variant].append(work())
        command("open", "default", inode)
        ends = statistics.median(command("ends", 1000) for _ in range(options.rounds))
    return {
        "machine": where,
        "rounds": options.rounds,
        "cells": {name: _compared(times) for name, times in taken.items()},
        "begin_and_end_us": round(ends * 1e6, 2),
    }


def _processes(box: Cgroup, times: int) -> float:
    """Return the seconds to start /bin/true in the call's cgroup and to wait for its end."""
    true = b"/bin/true"
    with _one_cpu():
        began = time.perf_counter()
        for _ in range(times):
            pid = _native.posix_spawn(box.fd, true, [true], [true], [], [], 0, 0, 0, 0, 0, 0)
            os.waitpid(pid, 0)
        return (time.perf_counter() - began) / times


def _ping_pong(trips: int) -> float:
    """Return the seconds of a round trip of one byte between two processes on one CPU."""
    there, back = os.pipe(), os.pipe()
    try:
        with _one_cpu():
            pid = os.fork()
            if pid == 0:
                with contextlib.suppress(BaseException):
                    for _ in range(trips):
                        os.write(back[1], os.read(there[0], 1))
                os._exit(0)
            began = time.perf_counter()
            for _ in range(trips):
                os.write(there[1], b"x")
                os.read(back[0], 1)
            took = time.perf_counter() - began
            os.waitpid(pid, 0)
        return took / trips
    finally:
        for fd in (*there, *back):
            os.close(fd)


@contextlib.contextmanager
def _one_cpu() -> Iterator[None]:
    """Stay on the last CPU, with all children: a move between CPUs costs more than the programs."""
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, [max(cpus)])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cpus)


def _compared(times: dict[str, list[float]]) -> dict[str, Any]:
    """Return each variant's median in microseconds, and the median of its ratios within a round."""
    return {
        variant: {
            "us": round(statistics.median(found) * 1e6, 3),
            "ratio": round(
                statistics.median(one / off for one, off in zip(found, times["off"], strict=True)),
                4,
            ),
        }
        for variant, found in times.items()
    }


@contextlib.contextmanager
def _holder() -> Iterator[Callable[..., Any]]:
    """Start the process that holds the programs; yield a function that sends it a command."""
    argv = [sys.executable, "-m", "benchmarks.monitor.holder"]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        questions, answers = process.stdin, process.stdout

        def command(*words: Any) -> Any:
            print(json.dumps(words), file=questions, flush=True)
            line = answers.readline()
            if not line:
                sys.exit("the process that holds the programs has ended; its error is above")
            return json.loads(line)

        yield command
        questions.close()


@contextlib.contextmanager
def _box() -> Iterator[Cgroup]:
    """Make a cgroup for the call's processes."""
    place = find()
    if place.base is None:
        sys.exit("there is no cgroup to work in; `agentcgroup doctor` says why")
    with contextlib.closing(Cgroup.open(place.base)) as base:
        box = base.child(f"agentcgroup-bench-{os.getpid()}")
    try:
        yield box
    finally:
        box.remove()
        box.close()
        teardown(place)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.monitor", description=__doc__)
    parser.add_argument("--rounds", type=int, default=301, help="turns of each variant (301)")
    parser.add_argument("--processes", type=int, default=60, help="started in each turn (60)")
    parser.add_argument("--trips", type=int, default=5000, help="of the ping-pong (5000)")
    REPORT.add_options(parser)
    return parser


if __name__ == "__main__":
    main()
