"""A process for each cell of a table: fresh, and as large as an agent's; JSON both ways."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.harness.machine import resident_mb

#: What is to be measured: `parent_mb`, the memory that the process holds beside its modules in
#: MB, and whatever else the benchmark wants to tell it.
Job = dict[str, Any]


def measured(module: str, job: Job, prefix: Sequence[str] = ()) -> dict[str, Any]:
    """Have `module`, which calls `serve`, do a job in a process of its own; return its answer.

    Args:
        module: its full name.
        job: what to measure.
        prefix: words before the command line, which bring the process where it has to be.
    """
    print(f"measuring {job} ...", file=sys.stderr)
    command = [*prefix, sys.executable, "-m", module, json.dumps(job)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{module} failed with status {done.returncode}; what it says is above")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def serve(measure: Callable[[Job], dict[str, Any]]) -> None:
    """Be the process of a cell: measure what the first argument says, and answer on stdout."""
    job: Job = json.loads(sys.argv[1])
    # Every page of it touched: what is never written to takes no memory.
    ballast = bytearray(b"\1") * (job["parent_mb"] << 20)
    found = measure(job)
    print(json.dumps(job | {"resident_mb": resident_mb()} | found))
    del ballast
