"""Two programs on one machine share the cgroup that their runs are made in."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import agentcgroup
from agentcgroup import Session


def test_what_the_other_program_removed_is_made_again(registered: Callable[..., Session]) -> None:
    """A program that ends removes the shared cgroup, which this one has not used yet."""
    session = registered()
    assert session._services.cgroups.place.base is not None
    os.rmdir(session._services.cgroups.place.base)
    with agentcgroup.call("late", memory_max="64M"):
        subprocess.run(["true"], check=True)
    (record,) = session.records
    assert record.cgroup is not None
    assert record.cgroup.startswith(session._services.cgroups.place.base)
    assert record.memory_peak_bytes is not None
