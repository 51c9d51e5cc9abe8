"""A tool that runs /bin/true: the cost of a cgroup for a process, from its start to the result."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable
from functools import partial
from typing import Any

from langchain_core.tools import tool

from agentcgroup.errors import AgentCgroupError
from benchmarks.harness.sampling import Rhythm, Variant, sample
from benchmarks.overhead.launchers import LAUNCHERS, PROGRAM, Missing
from benchmarks.overhead.switch import Switch

#: Without a gap, a turn has ten runs, so that the background work of a call (the removal of its
#: cgroup) slows down a call of the same variant. With a gap, a turn has one run.
_DENSE = Rhythm(gap=0, warm=2, counted=10)


@tool
def execute(command: list[str]) -> str:
    """Run a command."""
    subprocess.run(command, check=True)
    return "done"


def measure(
    runs: int, gap: float, launchers: list[str]
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Return the seconds of each call by variant, and why a launcher could not be measured."""
    rhythm = Rhythm(gap=gap, warm=0, counted=1) if gap else _DENSE
    missing: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        switch = Switch()
        stack.callback(switch.close)
        variants = [
            Variant("plain", partial(_run, _plain), before=switch.off),
            Variant("agentcgroup", partial(_run, _plain), switch.on, switch.drain),
        ]
        switch.off()
        base = switch.session._services.cgroups.place.base
        for name in launchers:
            try:
                launcher = stack.enter_context(LAUNCHERS[name](base))
            except Missing as error:
                missing[name] = str(error)
            else:
                variants.append(Variant(name, partial(_run, launcher), before=switch.off))
        seconds = sample(variants, rhythm, runs)
        contained = [record for record in switch.session.records if record.cgroup is not None]
        if len(contained) < min(runs, switch.session._services.config.records_max):
            raise AgentCgroupError("calls had no cgroup: agentcgroup was not measured")
    return seconds, missing


def _plain() -> list[str]:
    return [PROGRAM]


def _run(launcher: Callable[[], list[str]]) -> None:
    arguments: dict[str, Any] = {"command": launcher()}
    execute.invoke({"type": "tool_call", "name": "execute", "args": arguments, "id": "call-1"})
