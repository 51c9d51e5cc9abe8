"""Linux cgroup v2: one directory under cgroupfs, and where on this machine to make it."""

from __future__ import annotations

from agentcgroup.cgroup.cgroup import Cgroup
from agentcgroup.cgroup.limits import MAX, Limits, Quantity
from agentcgroup.cgroup.meter import Meter
from agentcgroup.cgroup.owner import Reaped, is_run, orphans, reap, run_name
from agentcgroup.cgroup.place import Place, bases, find, teardown
from agentcgroup.cgroup.probe import is_charged
from agentcgroup.cgroup.problems import Problem
from agentcgroup.cgroup.stats import Events, Usage
from agentcgroup.cgroup.whereabouts import Whereabouts

__all__ = [
    "MAX",
    "Cgroup",
    "Events",
    "Limits",
    "Meter",
    "Place",
    "Problem",
    "Quantity",
    "Reaped",
    "Usage",
    "Whereabouts",
    "bases",
    "find",
    "is_charged",
    "is_run",
    "orphans",
    "reap",
    "run_name",
    "teardown",
]
