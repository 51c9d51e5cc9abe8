"""The table, and the goals in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.harness import machine
from benchmarks.harness.report import Report, Result, head, milliseconds, row

#: What a call may take, in times of the same work without us.
GOALS = {"inline": 1.05, "launch": 1.10}

_HEAD = """\
# What a tool call costs

Written by `make bench`; do not edit. The machine-readable form is in `results/`.

Everything within one table of one machine was run in one process, in turns and in random order:
the ratios hold, the times do not carry over to another machine. *plain* is the same call of the
same LangChain tool in the same process with every hook of agentcgroup taken off. Time is from the
call of the tool to its result; gc is on, as users have it.

- **agentcgroup**: a cgroup of its own for each call, with the default limits, read and judged at
  the end; removed behind the call, which counts where calls follow each other without a pause.
- **bubblewrap**: `bwrap --dev-bind / / /bin/true`; no limits.
- **crun**: `crun run` with the namespaces of `crun spec`, fresh cgroup (where cgroup v2 is mounted
  at /sys/fs/cgroup or can be), no limits.
- **shell wrapper**: `sh -c 'echo 0 > CGROUP/cgroup.procs && exec /bin/true'` into a cgroup that is
  there already; no limits.
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
        return "starts nothing"
    gap = f"{cell['gap_ms']:g} ms apart" if cell["gap_ms"] else "one after the other"
    return f"/bin/true, parent + {cell['parent_mb']} MB, {gap}"


REPORT = Report(_HEAD, table, Path(__file__).parent)
