"""Calls in a row and at once with every controller on: nothing grows, dying cgroups included."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import agentcgroup
from agentcgroup import Session
from tests.kernel.support import processes_below
from tests.support.crowd import cgroups_at_once
from tests.support.processes import until


def _true() -> None:
    with agentcgroup.call("true"):
        subprocess.run(["true"])


def _counted(session: Session) -> tuple[int, int]:
    """Return the run's cgroups, and how many of those removed the kernel still holds."""
    assert processes_below(session) == []
    run = session._services.cgroups.branch()
    assert run is not None
    living = sum(1 for _ in os.walk(run.cgroup.path))
    stat = Path(run.cgroup.path, "cgroup.stat").read_text().split()
    return living, int(stat[stat.index("nr_dying_descendants") + 1])


def test_calls_in_a_row_leave_no_cgroup_living_or_dying(
    registered: Callable[..., Session],
) -> None:
    """A removed cgroup with memory charged to it stays in the kernel, unseen; none may."""
    session = registered()
    for _ in range(20):
        _true()
    living, dying = _counted(session)
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(300):
        _true()
    assert _counted(session)[0] == living
    assert until(lambda: _counted(session)[1] <= dying + 20)  # released in batches
    assert until(lambda: len(os.listdir("/proc/self/fd")) == descriptors)


def test_calls_at_once_each_have_their_cgroup(registered: Callable[..., Session]) -> None:
    session = registered()
    assert len(cgroups_at_once(100)) == 100
    assert [record.outcome for record in session.records] == ["ok"] * 100
    assert processes_below(session) == []
