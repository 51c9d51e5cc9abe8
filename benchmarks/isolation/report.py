"""The table, and the files it is kept in: results/NAME.json, and RESULTS.md made of all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.isolation.tools import TOOLS

FOLDER = Path(__file__).parent
_RESULTS = FOLDER / "results"

#: Microseconds that a trivial call may take more than a direct one.
GOAL_US = 500

_HEAD = """\
# What a body in a process costs

Written by `make bench-isolation`; do not edit. The machine-readable form is in `results/`.

Everything within one cell was run in one process, in turns and in random order: the order of the
rows holds, the times do not carry over to another machine. Time is from the call to the result,
every page of it read; each turn begins with all pools warm. "dense": six calls in a row, the first
of which is not counted.

- **direct**: the function is called.
- **agentcgroup**: `isolation = "process"`: a fresh worker in a fresh cgroup for each call.
- **agentcgroup, reuse**: the same with `reuse`: a cgroup and a worker that serve call after call,
  counted apart.
- **loky**, **pebble**, **futures**: pools of two workers that serve call after call, in the app's
  own cgroup, without limits or accounting.
"""


def save(name: str, result: dict[str, Any]) -> None:
    """Keep a result under `name` and write RESULTS.md anew."""
    _RESULTS.mkdir(exist_ok=True)
    (_RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    kept = {file.stem: json.loads(file.read_text()) for file in sorted(_RESULTS.glob("*.json"))}
    sections = [f"## {stem}\n\n{table(one)}" for stem, one in kept.items()]
    (FOLDER / "RESULTS.md").write_text("\n".join([_HEAD, *sections]))


def table(result: dict[str, Any]) -> str:
    """Return a result as Markdown."""
    machine = result["machine"]
    lines = [
        f"{machine['date']}, Linux {machine['kernel']}, {machine['cpus']} CPUs"
        f" ({machine['processor']}), {machine['memory_mb']} MB; Python {machine['python']},"
        f" agentcgroup {machine['agentcgroup']};"
        f" cgroup controllers: {', '.join(machine['controllers']) or 'none'};"
        f" workers placed by {machine['spawn']}"
        f"{'; under a real-time priority' if machine.get('realtime') else ''}.",
        "",
        "| tool | way | runs | median ms | p95 ms | more than direct, ms | goal |",
        "|---|---|--:|--:|--:|--:|---|",
    ]
    for cell in result["cells"]:
        lines += _rows(cell)
    return "\n".join([*lines, ""])


def _rows(cell: dict[str, Any]) -> list[str]:
    direct = cell["variants"]["direct"]["median_us"]
    gap = f"{cell['gap_ms']:g} ms apart" if cell["gap_ms"] else "dense"
    title = f"{TOOLS[cell['tool']].title}, parent + {cell['parent_mb']} MB, {gap}"
    return [
        f"| {title} | {name} | {figures['runs']} | {figures['median_us'] / 1000:.3f}"
        f" | {figures['p95_us'] / 1000:.3f} | {(figures['median_us'] - direct) / 1000:.3f}"
        f" | {_verdict(cell, name)} |"
        for name, figures in cell["variants"].items()
    ]


def _verdict(cell: dict[str, Any], name: str) -> str:
    """Say whether the goals are met: little more than direct, and faster than every other way."""
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
