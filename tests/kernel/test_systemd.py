"""Services of a systemd that runs as PID 1 of its own namespaces find a place."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentcgroup.cgroup import Cgroup
from tests.support.processes import SOON, until

SYSTEMD = "/lib/systemd/systemd"
CONTROLLERS = ["cpu", "cpuset", "io", "memory", "pids"]

pytestmark = pytest.mark.skipif(
    not (os.path.exists(SYSTEMD) and shutil.which("dbus-daemon")),
    reason=f"needs {SYSTEMD} and dbus-daemon, installed, not running (make lab-deps)",
)

#: As `FINDER`, and the limits of the place.
LIMITS = """
import json
from agentcgroup.place.place import find
place = find()
files = ("memory.max", "memory.high", "pids.max", "cpu.max", "cpuset.cpus")
texts = {file: open(f"{place.base}/{file}").read().strip() for file in files}
print(json.dumps([place.kind, place.base.removeprefix("/sys/fs/cgroup"), texts]))
print("")
"""
FINDER = """
import json
from dataclasses import asdict
from agentcgroup.place.place import find
print(json.dumps(asdict(find()), default=sorted))
print(open("/proc/self/cgroup").read().strip())
"""
#: A run that dies with a process in its call, and the start of the next one.
DYING = """
import os, signal, subprocess, agentcgroup
with agentcgroup.call("sleep"):
    print(subprocess.Popen(["sleep", "3600"], stdout=subprocess.DEVNULL).pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
NEXT = f"""
import json, os, subprocess, sys, time, agentcgroup
dying = subprocess.run([sys.executable, "-c", {DYING!r}], stdout=subprocess.PIPE, text=True)
pid = int(dying.stdout)
os.kill(pid, 0)
agentcgroup.register("langchain").records
fate, deadline = "still there", time.monotonic() + 100
while fate != "gone" and time.monotonic() < deadline:
    try:
        os.kill(pid, 0)
        time.sleep(0.1)  # dead by now, until systemd comes to reap it
    except ProcessLookupError:
        fate = "gone"
print(json.dumps(fate))
print("")
"""
# Systemd's own dbus units wait for a whole system to come up.
UNITS = {
    "dbus.socket": """
        [Unit]
        DefaultDependencies=no
        [Socket]
        ListenStream=/run/dbus/system_bus_socket
        """,
    "dbus.service": """
        [Unit]
        DefaultDependencies=no
        Requires=dbus.socket
        [Service]
        Type=notify
        NotifyAccess=main
        ExecStart=/usr/bin/dbus-daemon --system --address=systemd: --nofork --nopidfile
        """,
    "finder.service": """
        [Unit]
        DefaultDependencies=no
        Requires=dbus.service
        After=dbus.service
        [Service]
        Type=oneshot
        StandardOutput=file:{out}
        StandardError=file:{out}.errors
        ExecStart={python} {script}
        ExecStartPost=/bin/sh -c '>{out}.done'
        {more}
        """,
}
START = """
mount -t proc proc /proc
umount /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/systemd/system && cp "$1"/*.service "$1"/*.socket /run/systemd/system
read -r _
exec env -i container=test "PATH=$PATH" "$2" --unit=finder.service --show-status=no
"""


def found_by_a_service(
    branch: Cgroup, folder: Path, more: str = "", finder: str = FINDER
) -> tuple[Any, str]:
    """Boot systemd with one service that finds a place; return it and the service's cgroup."""
    out, script = folder / "out", folder / "finder.py"
    script.write_text(finder)
    for name, text in UNITS.items():
        lines = [line.strip() for line in text.strip().splitlines()]
        unit = "\n".join(lines).format(out=out, python=sys.executable, script=script, more=more)
        (folder / name).write_text(unit + "\n")
    machine = branch.child("machine")
    namespaces = ["unshare", "-m", "-p", "-C", "-f", "--kill-child", "sh", "-c", START, "sh"]
    init = subprocess.Popen(
        [*namespaces, str(folder), SYSTEMD],
        preexec_fn=machine.join,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        forked = Path(f"/proc/{init.pid}/task/{init.pid}/children")
        assert until(lambda: bool(forked.read_text()))  # in its namespaces; `sh` waits for a line
        with contextlib.closing(Cgroup.open("/sys/fs/cgroup")) as root:
            root.join(init.pid)  # `unshare` itself, in the way of systemd's controllers
        assert init.stdin is not None
        with init.stdin:
            init.stdin.write(b"\n")
        assert until(Path(f"{out}.done").exists, 300)
        place, cgroup = out.read_text().splitlines()
        return json.loads(place), cgroup
    finally:
        init.kill()
        init.wait()
        machine.remove(SOON)
        machine.close()


def test_a_service_gets_a_scope_of_its_own(branch: Cgroup, tmp_path: Path) -> None:
    place, cgroup = found_by_a_service(branch, tmp_path)
    assert place["kind"] == "systemd-system"
    scope = place["base"].removeprefix("/sys/fs/cgroup")
    assert scope.startswith("/system.slice/agentcgroup-")
    assert scope.endswith(".scope")
    assert cgroup == f"0::{scope}/agentcgroup.sup"
    assert place["controllers"] == CONTROLLERS
    assert place["problems"] == []


def test_a_service_that_is_delegated_stays_where_it_is(branch: Cgroup, tmp_path: Path) -> None:
    place, cgroup = found_by_a_service(branch, tmp_path, more="Delegate=yes")
    assert place["kind"] == "delegated"
    assert place["base"] == "/sys/fs/cgroup/system.slice/finder.service"
    assert cgroup == "0::/system.slice/finder.service/agentcgroup.sup"
    assert place["controllers"] == CONTROLLERS
    assert place["problems"] == []


def test_a_scope_has_the_limits_of_the_service_it_leaves(branch: Cgroup, tmp_path: Path) -> None:
    more = "MemoryMax=900M\nMemoryHigh=800M\nTasksMax=123\nCPUQuota=150%\nAllowedCPUs=0"
    (kind, base, texts), _ = found_by_a_service(branch, tmp_path, more=more, finder=LIMITS)
    assert kind == "systemd-system"
    assert base.startswith("/system.slice/agentcgroup-")
    assert texts == {
        "memory.max": str(900 << 20),
        "memory.high": str(800 << 20),
        "pids.max": "123",
        "cpu.max": "150000 100000",
        "cpuset.cpus": "0",
    }


def test_a_scope_stays_in_the_slice_of_the_service(branch: Cgroup, tmp_path: Path) -> None:
    """The slice's own limits hold there, those that systemd has no property for too."""
    more = "Slice=jobs-nightly.slice"
    (kind, base, _), _ = found_by_a_service(branch, tmp_path, more=more, finder=LIMITS)
    assert kind == "systemd-system"
    assert base.startswith("/jobs.slice/jobs-nightly.slice/agentcgroup-")


#: A manager of jobs: it makes a limited cgroup in its own delegated unit, and a job finds a place.
JOBS = f"""
import os, subprocess, sys
job = "/sys/fs/cgroup/system.slice/finder.service/job"
os.mkdir(os.path.dirname(job) + "/manager")
open(os.path.dirname(job) + "/manager/cgroup.procs", "w").write("0")
open(os.path.dirname(job) + "/cgroup.subtree_control", "w").write("+memory +pids +cpu +cpuset")
os.mkdir(job)
open(job + "/memory.max", "w").write("300M")
open(job + "/cgroup.procs", "w").write("0")
exec({LIMITS!r})
"""


def test_a_job_in_a_delegated_unit_stays_in_its_own_limited_cgroup(
    branch: Cgroup, tmp_path: Path
) -> None:
    (kind, base, texts), _ = found_by_a_service(branch, tmp_path, "Delegate=yes", JOBS)
    assert (kind, base) == ("delegated", "/system.slice/finder.service/job")
    assert texts["memory.max"] == str(300 << 20)


def test_what_died_in_another_scope_is_gone_at_the_next_start(
    branch: Cgroup, tmp_path: Path
) -> None:
    """Each run has a scope of its own; the next run finds the scopes of earlier ones."""
    fate, _ = found_by_a_service(branch, tmp_path, finder=NEXT)
    assert fate == "gone"
