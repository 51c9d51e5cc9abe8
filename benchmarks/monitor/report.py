"""The table, and the goals in it."""

from __future__ import annotations

from pathlib import Path

from benchmarks.harness import machine
from benchmarks.harness.report import Report, Result, head, row

VARIANTS = ("off", "default", "full")
#: The most that each may cost in the default detail.
_GOALS = {"processes of a call": 1.02, "ping-pong of others": 1.01}
_GOAL_ENDS_US = 10

_HEAD = """\
# The cost of the BPF programs

Written by `python -m benchmarks.monitor --save NAME`; do not edit.

Compare ratios, not times, with another machine. A ratio is the median over the rounds of a
variant's time divided by the time without programs in the same round.

- **processes of a call**: clone3 into the call's cgroup, exec of /bin/true, its exit, wait.
- **ping-pong of others**: a byte sent and returned between two processes on one CPU, in no call.
- **begin and end of a call**: `AttachedPrograms.add` and `AttachedPrograms.remove`, default detail.
"""


def table(result: Result) -> str:
    """Return a result as Markdown."""
    lines = [
        machine.described(result["machine"], f"{result['rounds']} rounds"),
        "",
        *head("work", *(f"{variant}:" for variant in VARIANTS), "goal for default"),
    ]
    for name, cell in result["cells"].items():
        figures = [f"{cell[each]['us']:.2f} us, {cell[each]['ratio']:.3f}" for each in VARIANTS]
        goal = _judged(cell["default"]["ratio"], _GOALS[name], f"{_GOALS[name]:.2f}")
        lines.append(row([name, *figures, goal]))
    ends = result["begin_and_end_us"]
    goal = _judged(ends, _GOAL_ENDS_US, f"{_GOAL_ENDS_US} us")
    lines.append(row(["begin and end of a call", "", f"{ends:.2f} us", "", goal]))
    return "\n".join([*lines, ""])


def _judged(figure: float, goal: float, text: str) -> str:
    return f"{text}: {'met' if figure <= goal else 'not met'}"


REPORT = Report(_HEAD, table, Path(__file__).parent)
