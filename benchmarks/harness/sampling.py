"""Variants take turns in random order, so that other load of the machine affects all alike."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Variant:
    """One way to do the work.

    Attributes:
        name: title of its row in the table.
        run: does the work once; only this is timed.
        before: prepares a turn.
        after: ends a turn; waits for its background work, which would slow down the next turn.
    """

    name: str
    run: Callable[[], object]
    before: Callable[[], object] = lambda: None
    after: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Rhythm:
    """How the runs of one turn follow each other.

    Attributes:
        gap: seconds of sleep before each run.
        warm: runs at the start of a turn that are not counted.
        counted: runs of a turn that are counted.
    """

    gap: float
    warm: int
    counted: int


def sample(variants: Sequence[Variant], rhythm: Rhythm, runs: int) -> dict[str, list[float]]:
    """Run the variants in turns until each has `runs` counted runs; return their seconds."""
    seconds: dict[str, list[float]] = {variant.name: [] for variant in variants}
    order = list(variants)
    for turn in range(1 + -(-runs // rhythm.counted)):
        random.shuffle(order)
        for variant in order:
            taken = _turn(variant, rhythm)
            if turn:  # the first turn fills caches and pools
                seconds[variant.name] += taken
    return seconds


def _turn(variant: Variant, rhythm: Rhythm) -> list[float]:
    variant.before()
    taken = []
    for _ in range(rhythm.warm + rhythm.counted):
        if rhythm.gap:
            time.sleep(rhythm.gap)
        started = time.perf_counter()
        variant.run()
        taken.append(time.perf_counter() - started)
    variant.after()
    return taken[rhythm.warm :]


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Return the number of runs, and their median and 95th percentile in microseconds."""
    if len(seconds) < 2:
        raise ValueError("a median of one run says nothing")
    return {
        "runs": len(seconds),
        "median_us": round(statistics.median(seconds) * 1e6, 1),
        "p95_us": round(statistics.quantiles(seconds, n=20)[-1] * 1e6, 1),
    }
