"""Measure one cell of the table; `__main__` starts a process of this module for each cell."""

from __future__ import annotations

from typing import Any

from benchmarks.harness.cells import Job, serve
from benchmarks.harness.sampling import summary
from benchmarks.overhead import inline, launch


def measure(job: Job) -> dict[str, Any]:
    """Return the figures of each variant, and the reason for each that could not be measured."""
    missing: dict[str, str] = {}
    if job["tool"] == "inline":
        seconds = inline.measure(job["runs"])
    else:
        seconds, missing = launch.measure(job["runs"], job["gap_ms"] / 1000, job["launchers"])
    return {
        "variants": {name: summary(taken) for name, taken in seconds.items()},
        "missing": missing,
    }


if __name__ == "__main__":
    serve(measure)
