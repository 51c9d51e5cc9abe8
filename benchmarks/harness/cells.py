"""A new process for each cell of a table, as large as an agent's; jobs and results are JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.harness.machine import resident_mb

#: The parameters of one cell. `parent_mb` is the memory in MB that the process holds beside its
#: modules; each benchmark adds its own keys.
Job = dict[str, Any]


def measured(module: str, job: Job, prefix: Sequence[str] = ()) -> dict[str, Any]:
    """Run `module`, which calls `serve`, with a job in a new process; return the result.

    Args:
        module: full name of the module.
        job: the parameters of the cell.
        prefix: words before the command line, such as ``unshare --mount``.
    """
    print(f"measuring {job} ...", file=sys.stderr)
    command = [*prefix, sys.executable, "-m", module, json.dumps(job)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{module} failed with status {done.returncode}; its message is above")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def serve(measure: Callable[[Job], dict[str, Any]]) -> None:
    """Run in the process of a cell: measure the job in the first argument, print the result."""
    job: Job = json.loads(sys.argv[1])
    # The bytes are not zero, so that every page is written: an unwritten page takes no memory.
    ballast = bytearray(b"\1") * (job["parent_mb"] << 20)
    found = measure(job)
    print(json.dumps(job | {"resident_mb": resident_mb()} | found))
    del ballast
