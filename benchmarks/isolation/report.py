"""Make the table, with the goals in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.harness import machine
from benchmarks.harness.report import Report, Result, head, milliseconds, row
from benchmarks.isolation.tools import TOOLS

#: Microseconds that a trivial call may take longer than a direct one.
GOAL_US = 500

_HEAD = """\
# The time that a body takes in a process of its own

`make bench-isolation` writes this file; do not edit it. `results/` has the machine-readable form.

One process measured all rows of a cell, in turns and in random order. So the order of the rows is
valid on other machines, the times are not. A time is from the call until every page of the result
has been read; each turn starts with all pools warm. "dense": six calls in a row, of which the first
does not count.

- **direct**: the function is called in the app's process.
- **agentcgroup**: `isolation = "process"`: each call has a fresh worker in a fresh cgroup.
- **agentcgroup, reuse**: the same with `reuse`: one worker and its cgroup serve call after call;
  each call's usage is still counted separately.
- **loky**, **pebble**, **futures**: pools of two workers that serve call after call in the app's
  own cgroup, without limits or accounting.
"""


def table(result: Result) -> str:
    """Return a result as Markdown."""
    facts = result["machine"]
    lines = [
        machine.described(
            facts,
            f"Python {facts['python']}, agentcgroup {facts['agentcgroup']}",
            machine.placing(facts, "workers"),
        ),
        "",
        *head("tool", "way", "runs:", "median ms:", "p95 ms:", "more than direct, ms:", "goal"),
    ]
    for cell in result["cells"]:
        lines += _rows(cell)
    return "\n".join([*lines, ""])


def _rows(cell: dict[str, Any]) -> list[str]:
    direct = cell["variants"]["direct"]["median_us"]
    gap = f"{cell['gap_ms']:g} ms apart" if cell["gap_ms"] else "dense"
    title = f"{TOOLS[cell['tool']].title}, parent + {cell['parent_mb']} MB, {gap}"
    return [
        row(
            [
                title,
                name,
                figures["runs"],
                milliseconds(figures["median_us"]),
                milliseconds(figures["p95_us"]),
                milliseconds(figures["median_us"] - direct),
                _verdict(cell, name),
            ]
        )
        for name, figures in cell["variants"].items()
    ]


def _verdict(cell: dict[str, Any], name: str) -> str:
    """Return which goals are met: at most GOAL_US above direct, and faster than the other ways."""
    if not name.startswith("agentcgroup"):
        return ""
    variants = cell["variants"]
    ours = variants[name]["median_us"]
    said = []
    if cell["tool"] == "trivial":
        met = ours - variants["direct"]["median_us"] <= GOAL_US
        said.append(f"{GOAL_US / 1000:g} ms more: {'met' if met else 'not met'}")
    others = {
        other: figures["median_us"]
        for other, figures in variants.items()
        if other != "direct" and not other.startswith("agentcgroup")
    }
    faster = [other for other, median in others.items() if median < ours]
    said.append(f"slower than {', '.join(faster)}" if faster else "fastest")
    return "; ".join(said)


REPORT = Report(_HEAD, table, Path(__file__).parent)
