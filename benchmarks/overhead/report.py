"""The table of the results, and their goals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.harness import machine
from benchmarks.harness.report import Report, Result, head, milliseconds, row

#: The longest time of a call, in proportion to the same call without agentcgroup.
GOALS = {"inline": 1.05, "launch": 1.10}

_HEAD = """\
# What a tool call costs

Written by `make bench`; do not edit. The machine-readable form is in `results/`.

All variants of one tool on one machine ran in one process, in turns and in random order. Compare
the ratios; the times do not carry over to another machine. *plain* is the same call of the same
LangChain tool in the same process, with every hook of agentcgroup removed. The time is from the
call of the tool to its result. Python's garbage collector is on, as it is for users.

- **agentcgroup**: each call has a cgroup of its own with the default limits. At the end of the call
  agentcgroup reads the cgroup's figures. It removes the cgroup after the call, in the background;
  where calls follow each other without a pause, this slows down the next call.
- **bubblewrap**: `bwrap --dev-bind / / /bin/true`, without limits.
- **crun**: `crun run` with the namespaces of `crun spec` and a new cgroup (if cgroup v2 is mounted
  at /sys/fs/cgroup or can be mounted there), without limits.
- **shell wrapper**: `sh -c 'echo 0 > CGROUP/cgroup.procs && exec /bin/true'` with an existing
  cgroup, without limits.
"""


def table(result: Result) -> str:
    """Return a result as Markdown."""
    facts = result["machine"]
    lines = [
        machine.described(
            facts,
            f"Python {facts['python']}, langchain-core {facts['langchain_core']}, agentcgroup"
            f" {facts['agentcgroup']}",
            machine.placing(facts, "children"),
        ),
        "",
        *head(
            "tool",
            "variant",
            "runs:",
            "median ms:",
            "p95 ms:",
            "median ratio:",
            "p95 ratio:",
            "goal",
        ),
    ]
    for cell in result["cells"]:
        lines += _rows(cell)
    return "\n".join([*lines, ""])


def _rows(cell: dict[str, Any]) -> list[str]:
    plain = cell["variants"]["plain"]
    rows = []
    for name, figures in cell["variants"].items():
        ratio = figures["median_us"] / plain["median_us"]
        goal = GOALS[cell["tool"]]
        verdict = f"{goal:.2f}: {'met' if ratio <= goal else 'not met'}"
        columns = [
            _title(cell),
            name,
            figures["runs"],
            milliseconds(figures["median_us"]),
            milliseconds(figures["p95_us"]),
            f"{ratio:.3f}",
            f"{figures['p95_us'] / plain['p95_us']:.3f}",
            verdict if name == "agentcgroup" else "",
        ]
        rows.append(row(columns))
    for name, why in cell["missing"].items():
        rows.append(row([_title(cell), name, f"not measured: {why}", *[""] * 5]))
    return rows


def _title(cell: dict[str, Any]) -> str:
    if cell["tool"] == "inline":
        return "starts no process"
    gap = f"{cell['gap_ms']:g} ms apart" if cell["gap_ms"] else "without a pause"
    return f"/bin/true, parent + {cell['parent_mb']} MB, {gap}"


REPORT = Report(_HEAD, table, Path(__file__).parent)
