"""The benchmark's command line: ``python -m benchmarks.neighbours --help``."""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import agentcgroup
from agentcgroup import Session
from benchmarks.harness.report import head, milliseconds, row
from benchmarks.harness.sampling import summary
from tests.frameworks.conformance.driver import Driver, load

_COLUMNS: Final = ("langchain-sync", "autogen-agent", "crewai-native")
_LIMIT_MB: Final = 64
#: MiB that each call of the neighbour allocates, by variant; None: there is no neighbour.
_NEIGHBOURS: Final = {"alone": None, "beside a modest agent": 4, "beside a greedy agent": 500}
_CALLS: Final = 5


def eat(mib: int) -> str:
    """Start a process that allocates memory; return its output, "" if it was killed."""
    code = f"print(len(bytearray({mib} << 20)))"
    return subprocess.run([sys.executable, "-ISc", code], capture_output=True, text=True).stdout


def main() -> None:
    """Measure each framework, its variants in turns of random order, and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.neighbours",
        description="Measure the calls of one agent alone, beside an agent that does the same, and "
        f"beside an agent whose calls use memory up to its limit of {_LIMIT_MB} MiB.",
    )
    parser.add_argument("--turns", type=int, default=8, help=f"turns of {_CALLS} calls each (8)")
    parser.add_argument(
        "columns", nargs="*", metavar="PATH", help=f"which of {', '.join(_COLUMNS)} (all)"
    )
    options = parser.parse_args()
    times = ("calls:", "median ms:", "p95 ms:", "median ratio:")
    print("\n".join(head("path", "neighbour", *times, "its kills:")))
    for column in options.columns or _COLUMNS:
        for cells in _measured(column, options.turns):
            print(row([column, *cells]), flush=True)


def _measured(column: str, turns: int) -> Iterator[tuple[object, ...]]:
    driver = load(column)
    limits = {"agent": {"memory_max": _LIMIT_MB << 20}}
    with agentcgroup.register(driver.framework, config={"limits": limits}) as session:
        if "memory" not in session._services.cgroups.place.controllers:
            sys.exit(
                "no memory controller in cgroup v2 on this machine; run: make bench-neighbours"
            )
        seconds: dict[str, list[float]] = {name: [] for name in _NEIGHBOURS}
        for turn in range(1 + turns):
            for name in random.sample(list(_NEIGHBOURS), len(_NEIGHBOURS)):
                taken = _turn(driver, session, name)
                if turn:  # the first turn fills caches
                    seconds[name] += taken
        kills = {name: _kills(session, name) for name in _NEIGHBOURS}
    figures = {name: summary(taken) for name, taken in seconds.items()}
    for name, its in figures.items():
        ratio = its["median_us"] / figures["alone"]["median_us"]
        times = milliseconds(its["median_us"]), milliseconds(its["p95_us"])
        yield name, its["runs"], *times, f"{ratio:.3f}", kills[name]


def _turn(driver: Driver, session: Session, name: str) -> list[float]:
    """Run one turn; return the seconds of each call of the measured agent."""
    before = len(session.records)
    # No two calls are alike: CrewAI stops an agent that repeats a call.
    calls = [[("eat", {"mib": 4 + number})] for number in range(_CALLS)]
    with _neighbour(driver, name):
        reply = driver.run(driver.build(*calls, "done", tools=[eat], name="measured"))
    assert reply.text == "done"
    records = [one for one in session.records[before:] if one.agent == "measured"]
    if [record.outcome for record in records] != ["ok"] * _CALLS:
        sys.exit(f"a call of the measured agent failed: {records}")
    return [record.duration_s for record in records]


@contextmanager
def _neighbour(driver: Driver, name: str) -> Iterator[None]:
    """Run another agent on a thread of its own, which makes one call after the other."""
    mib = _NEIGHBOURS[name]
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            turns: list[Any] = [[("eat", {"mib": mib})], "done"]
            driver.run(driver.build(*turns, tools=[eat], name=_agent(name)))

    thread = threading.Thread(target=work) if mib is not None else None
    if thread is not None:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if thread is not None:
            thread.join()


def _kills(session: Session, name: str) -> str:
    records = [record for record in session.records if record.agent == _agent(name)]
    if not records and _NEIGHBOURS[name] is not None:
        sys.exit(f"{name}: the neighbour made no calls, so there is nothing to compare")
    return f"{sum(record.outcome == 'oom' for record in records)} of {len(records)}"


def _agent(name: str) -> str:
    """Return the neighbour's name as an identifier, which AutoGen requires."""
    return name.replace(" ", "_")


if __name__ == "__main__":
    main()
