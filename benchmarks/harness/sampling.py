"""Variants in turns, in random order: what loads the machine meanwhile loads all of them."""

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
        name: of its row in the table.
        run: does the work once; this alone is timed.
        before: makes ready for a turn.
        after: ends a turn; waits until nothing of it goes on behind, which would slow the next.
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
        warm: runs at the start of a turn that do not count.
        counted: runs that do.
    """

    gap: float
    warm: int
    counted: int


def sample(variants: Sequence[Variant], rhythm: Rhythm, runs: int) -> dict[str, list[float]]:
    """Give each variant turns until it has `runs` counted runs; return their seconds."""
    seconds: dict[str, list[float]] = {variant.name: [] for variant in variants}
    order = list(variants)
    for turn in range(1 + -(-runs // rhythm.counted)):
        random.shuffle(order)
        for variant in order:
            taken = _turn(variant, rhythm)
            if turn:  # the first one fills caches and pools
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
    """Return how many runs there were, their median and 95th percentile in microseconds."""
    if len(seconds) < 2:
        raise ValueError("a median of one run says nothing")
    return {
        "runs": len(seconds),
        "median_us": round(statistics.median(seconds) * 1e6, 1),
        "p95_us": round(statistics.quantiles(seconds, n=20)[-1] * 1e6, 1),
    }
