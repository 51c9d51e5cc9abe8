"""Linux cgroup v2: one directory under cgroupfs."""

from __future__ import annotations

from agentcgroup.cgroup.cgroup import Cgroup
from agentcgroup.cgroup.limits import MAX, Limits, Quantity, controller_of
from agentcgroup.cgroup.meter import Meter
from agentcgroup.cgroup.stats import Events, Usage

__all__ = [
    "MAX",
    "Cgroup",
    "Events",
    "Limits",
    "Meter",
    "Quantity",
    "Usage",
    "controller_of",
]
