"""The table, and the files it is kept in: results/monitor/NAME.json, and RESULTS.md of them all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent
_RESULTS = _FOLDER.parent / "results" / "monitor"

VARIANTS = ("off", "default", "full")
#: The most that each may cost in the default detail.
_GOALS = {"processes of a call": 1.02, "ping-pong of others": 1.01}
_GOAL_ENDS_US = 10

_HEAD = """\
# What the BPF monitor costs

Written by `python -m benchmarks.monitor --save NAME`; do not edit.

The ratios hold, the times do not carry over to another machine: each is the median over the rounds
of one variant's time by that without a monitor in the same round.

- **processes of a call**: clone3 into the call's cgroup, exec of /bin/true, its exit, wait.
- **ping-pong of others**: a byte to and fro between two processes on one CPU, in no call.
- **begin and end of a call**: `Monitor.add` and `Monitor.remove`, default detail.
"""


def save(name: str, result: dict[str, Any]) -> None:
    """Keep a result under `name` and write RESULTS.md anew."""
    _RESULTS.mkdir(parents=True, exist_ok=True)
    (_RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    kept = {file.stem: json.loads(file.read_text()) for file in sorted(_RESULTS.glob("*.json"))}
    sections = [f"## {stem}\n\n{table(one)}" for stem, one in kept.items()]
    (_FOLDER / "RESULTS.md").write_text("\n".join([_HEAD, *sections]))


def table(result: dict[str, Any]) -> str:
    """Return a result as Markdown."""
    machine = result["machine"]
    lines = [
        f"{machine['date']}, Linux {machine['kernel']}, {machine['cpus']} CPUs"
        f" ({machine['processor']}), {machine['memory_mb']} MB; {result['rounds']} rounds"
        f"{'; under a real-time priority' if machine.get('realtime') else ''}.",
        "",
        "| work | off | default | full | goal for default |",
        "|---|--:|--:|--:|---|",
    ]
    for name, cell in result["cells"].items():
        figures = [f"{cell[each]['us']:.2f} us, {cell[each]['ratio']:.3f}" for each in VARIANTS]
        goal = _judged(cell["default"]["ratio"], _GOALS[name], f"{_GOALS[name]:.2f}")
        lines.append(f"| {name} | {' | '.join(figures)} | {goal} |")
    ends = result["begin_and_end_us"]
    goal = _judged(ends, _GOAL_ENDS_US, f"{_GOAL_ENDS_US} us")
    lines.append(f"| begin and end of a call |  | {ends:.2f} us |  | {goal} |")
    return "\n".join([*lines, ""])


def _judged(figure: float, goal: float, text: str) -> str:
    return f"{text}: {'met' if figure <= goal else 'not met'}"
