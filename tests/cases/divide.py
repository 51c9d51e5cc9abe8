"""Divides the cgroup that it runs in, as a container engine or an init system does.

    divide.py WAY [SECONDS]

Prints the pid of a process in the new cgroup, which then sleeps for SECONDS. The ways:

- ``controllers``: all processes to a child, controllers on (dockerd's and k3s's entry points);
- ``moved``: all processes to a child, without controllers;
- ``deep``: as ``controllers``, and once more in the child (an engine in a container);
- ``threaded``: a thread of this process in a threaded child.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def mine() -> Path:
    """Return the directory of this process's cgroup."""
    inside = next(
        line.strip().split("::", 1)[1]
        for line in Path("/proc/self/cgroup").read_text().splitlines()
        if line.startswith("0::")
    )
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[fields.index("-") + 1] == "cgroup2":
            return Path(fields[4]) / os.path.relpath(inside, fields[3])
    raise AssertionError("no cgroup v2 mount")


def evacuate(cgroup: Path, *, controllers: bool) -> Path:
    """Move the processes of a cgroup to a child, and turn its controllers on for the child."""
    child = cgroup / "init"
    child.mkdir()
    for pid in (cgroup / "cgroup.procs").read_text().split():
        (child / "cgroup.procs").write_text(pid)
    if controllers:
        names = (cgroup / "cgroup.controllers").read_text().split()
        assert names, f"{cgroup} has no controllers to divide it by"
        (cgroup / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in names))
    return child


def main(way: str, seconds: str = "60") -> None:
    """Divide, leave a process behind, and tell its pid."""
    cgroup = mine()
    if way == "threaded":
        child = cgroup / "threads"
        child.mkdir()
        (child / "cgroup.type").write_text("threaded")
        (child / "cgroup.threads").write_text(str(os.getpid()))
    else:
        child = evacuate(cgroup, controllers=way != "moved")
        if way == "deep":
            evacuate(child, controllers=True)
    left = subprocess.Popen(["sleep", seconds], stdout=subprocess.DEVNULL, start_new_session=True)
    print(left.pid, flush=True)


main(*sys.argv[1:])
