"""Measure one cell of the table in a process of its own, which `__main__` starts."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any

import agentcgroup
from agentcgroup import Session
from agentcgroup.errors import AgentCgroupError
from benchmarks.harness.cells import Job, serve
from benchmarks.harness.sampling import Rhythm, Variant, sample, summary
from benchmarks.isolation.pools import Run, opened
from benchmarks.isolation.tools import TOOLS, Tool

#: A turn without pauses between the calls: an agent calls one tool several times in a row.
_DENSE = Rhythm(gap=0, warm=1, counted=5)


def measure(job: Job) -> dict[str, Any]:
    """Return the times of each way to run the job's tool."""
    tool = TOOLS[job["tool"]]
    gap = job["gap_ms"] / 1000
    rhythm = Rhythm(gap=gap, warm=0, counted=1) if gap else _DENSE
    with contextlib.ExitStack() as stack:
        session = agentcgroup.register(config={"workers": {"max": 12}})
        stack.callback(agentcgroup.unregister)
        runs = opened(tool, stack)
        variants = [_variant(name, run, tool, session) for name, run in runs.items()]
        seconds = sample(variants, rhythm, job["runs"])
        _check(session)
    return {"variants": {name: summary(taken) for name, taken in seconds.items()}}


def _variant(name: str, run: Run, tool: Tool, session: Session) -> Variant:
    arguments = tool.arguments()

    def once() -> None:
        tool.read(run(*arguments))

    return Variant(name, once, after=partial(_wait_ready, session))


def _wait_ready(session: Session) -> None:
    """Wait until the next workers are ready, as they are after the time a model takes."""
    session._services.deferred.drain()
    session._services.workers().wait_born()


def _check(session: Session) -> None:
    records = session.records
    if any(record.isolation != "process" or record.cgroup is None for record in records):
        raise AgentCgroupError("calls had no worker or no cgroup: nothing was compared")
    if any(record.outcome != "ok" for record in records):
        raise AgentCgroupError("calls failed: nothing was compared")


if __name__ == "__main__":
    serve(measure)
