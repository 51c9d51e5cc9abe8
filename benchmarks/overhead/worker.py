"""Measures one cell of the table in a process of its own; started by `__main__`, JSON both ways."""

from __future__ import annotations

import json
import sys
from typing import Any

from benchmarks.harness.machine import resident_mb
from benchmarks.harness.sampling import summary
from benchmarks.overhead import inline, launch


def main() -> None:
    """Read what to measure from the first argument, write what came out to stdout."""
    job: dict[str, Any] = json.loads(sys.argv[1])
    ballast = _ballast(job["parent_mb"])
    missing: dict[str, str] = {}
    if job["tool"] == "inline":
        seconds = inline.measure(job["runs"])
    else:
        seconds, missing = launch.measure(job["runs"], job["gap_ms"] / 1000, job["launchers"])
    result = job | {
        "resident_mb": resident_mb(),
        "variants": {name: summary(taken) for name, taken in seconds.items()},
        "missing": missing,
    }
    del ballast
    print(json.dumps(result))


def _ballast(megabytes: int) -> bytearray:
    """Return that much memory, every page of it touched: the size of the agent's process."""
    return bytearray(b"\1") * (megabytes << 20)


if __name__ == "__main__":
    main()
