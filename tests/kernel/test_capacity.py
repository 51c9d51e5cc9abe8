"""A percentage of memory is of the memory that this process can have."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

from agentcgroup.cgroup import Cgroup, Limits
from agentcgroup.place import capacity

#: Waits until it is moved, then prints the default memory_max, which is half of the memory.
ASK = """
input()
from agentcgroup.config.loading import load
print(load({}).limits.call.memory_max, flush=True)
"""


def half_inside(cgroup: Cgroup) -> int:
    with subprocess.Popen(
        [sys.executable, "-c", ASK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        cgroup.join(process.pid)
        return int(process.communicate("\n")[0])


def test_without_a_limit_above_it_is_the_machine(box: Cgroup) -> None:
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert capacity.memory() == machine
    assert half_inside(box) == machine // 2


def test_the_tightest_limit_from_here_upwards_counts(branch: Cgroup) -> None:
    with contextlib.closing(branch.child("box")) as box:
        branch.set(Limits(memory_max=256 << 20))
        assert half_inside(box) == 128 << 20
        box.set(Limits(memory_max=128 << 20))
        assert half_inside(box) == 64 << 20
        box.set(Limits(memory_max=512 << 20))
        assert half_inside(box) == 128 << 20
