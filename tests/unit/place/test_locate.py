"""A process is found in its cgroup even while its fork waits for a CPU."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from subprocess import PIPE

import pytest

from agentcgroup.cgroup import Cgroup
from agentcgroup.place.locate import CgroupLocator
from tests.unit.conftest import cgroup2_mount

#: Keeps a CPU for itself for a second, with a child on it, which so cannot run.
_FORKS = f"""
import os, time
with open("{cgroup2_mount()}/cgroup.procs", "w") as root:
    root.write("0")
os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
child = os.fork()
if child == 0:
    time.sleep(60)
    os._exit(0)
print(child, flush=True)
end = time.monotonic() + 0.9  # of each second; the rest is for others (sched_rt_runtime_us)
while time.monotonic() < end:
    pass
os.wait()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may keep a CPU for itself; CI is root")
def test_who_has_not_run_yet_is_not_judged_by_where_it_seems_to_be(box: Cgroup) -> None:
    """Until a fork is complete, /proc shows the child in the root; it joins its cgroup later."""
    for _ in range(20):  # until we, too, have had a CPU in time
        with subprocess.Popen([sys.executable, "-S", "-c", _FORKS], stdout=PIPE) as parent:
            assert parent.stdout is not None
            child = int(parent.stdout.readline())
            try:
                found, in_time = _followed(child, box)
            finally:
                os.kill(child, 9)
        if in_time:
            assert found == box.path
            return
    pytest.fail("the child has run too early each time")


def _followed(child: int, box: Cgroup) -> tuple[str | None, bool]:
    """Return the cgroup that is found while the child joins, and whether it had not run before."""
    not_run: list[bool] = []

    def join() -> None:
        box.join(child)
        not_run.append(not _has_run(child))

    if _has_run(child):
        return None, False
    assert CgroupLocator().of(child) == cgroup2_mount()
    late = threading.Timer(0.2, join)
    late.start()
    found = CgroupLocator().of_newborn(child)
    late.join()
    return found, not_run == [True]


def _has_run(pid: int) -> bool:
    return Path(f"/proc/{pid}/schedstat").read_text().split()[2] != "0"
