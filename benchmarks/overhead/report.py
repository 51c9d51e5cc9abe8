"""The table, and the files it is kept in: results/NAME.json, and RESULTS.md made of all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent
_RESULTS = FOLDER / "results"

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
        f" langchain-core {machine['langchain_core']}, agentcgroup {machine['agentcgroup']};"
        f" cgroup controllers: {', '.join(machine['controllers']) or 'none'};"
        f" children placed by {machine['spawn']}.",
        "",
        "| tool | variant | runs | median ms | p95 ms | median ratio | p95 ratio | goal |",
        "|---|---|--:|--:|--:|--:|--:|---|",
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
            str(figures["runs"]),
            f"{figures['median_us'] / 1000:.3f}",
            f"{figures['p95_us'] / 1000:.3f}",
            f"{ratio:.3f}",
            f"{figures['p95_us'] / plain['p95_us']:.3f}",
            verdict if name == "agentcgroup" else "",
        ]
        rows.append(f"| {' | '.join(columns)} |")
    for name, why in cell["missing"].items():
        rows.append(f"| {_title(cell)} | {name} | not measured: {why} | | | | | |")
    return rows


def _title(cell: dict[str, Any]) -> str:
    if cell["tool"] == "inline":
        return "starts nothing"
    gap = f"{cell['gap_ms']:g} ms apart" if cell["gap_ms"] else "one after the other"
    return f"/bin/true, parent + {cell['parent_mb']} MB, {gap}"
