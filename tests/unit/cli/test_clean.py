"""`agentcgroup clean`: runs that died, runs that are alive, and cgroups that cannot be removed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from agentcgroup.cgroup import Cgroup
from agentcgroup.place.owner import run_name
from tests.support.nobody import AS_NOBODY
from tests.support.processes import alive, ended

pytestmark = pytest.mark.usefixtures("folder")

_SUPERVISOR = """
import subprocess, sys
import agentcgroup
session = agentcgroup.api.begin({"cgroup_root": sys.argv[1]})
with agentcgroup.call("sleep"):
    child = subprocess.Popen(["sleep", "3600"])
    print(child.pid, session._services.cgroups.branch().cgroup.path, flush=True)
    child.wait()
"""


@contextlib.contextmanager
def _supervisor(root: str) -> Iterator[tuple[subprocess.Popen[str], int, str]]:
    """Start a run with one call; give its process, the tool's pid and the run's directory."""
    with subprocess.Popen(
        [sys.executable, "-c", f"import agentcgroup.api{_SUPERVISOR}", root],
        stdout=subprocess.PIPE,
        text=True,
    ) as supervisor:
        assert supervisor.stdout is not None
        pid, _, run = supervisor.stdout.readline().strip().partition(" ")
        try:
            yield supervisor, int(pid), run
        finally:
            supervisor.kill()


def _clean(root: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agentcgroup", "clean", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "AGENTCGROUP_ROOT": root},
    )


def test_what_a_dead_run_left_is_ended_and_removed(box: Cgroup) -> None:
    """--dry-run prints the run and changes nothing; after a real run, nothing is left."""
    with _supervisor(box.path) as (supervisor, pid, run):
        supervisor.send_signal(signal.SIGKILL)
        supervisor.wait()
        for _ in range(2):
            done = _clean(box.path, "--dry-run")
            assert (done.returncode, done.stdout) == (0, f"would remove {run}\n"), done.stderr
        assert alive(pid)
        assert os.path.isdir(run)

        done = _clean(box.path)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"removed {run}\n", "")
        assert ended(pid)
        assert not os.path.exists(run)
        for words in ((), ("--dry-run",)):
            done = _clean(box.path, *words)
            assert (done.returncode, done.stdout) == (0, f"Nothing left behind below {box.path}.\n")


def test_a_living_run_and_foreign_cgroups_are_left_alone(box: Cgroup) -> None:
    with contextlib.closing(box.child("somebody-elses")), _supervisor(box.path) as (_, pid, run):
        done = _clean(box.path)
        assert (done.returncode, done.stdout) == (0, f"Nothing left behind below {box.path}.\n")
        assert alive(pid)
        assert os.path.isdir(run)
        assert "somebody-elses" in box.children()


_CLEAN_AS = """
import os, sys
import agentcgroup.place.place
agentcgroup.place.place.find(sys.argv[1])
with open(f"{sys.argv[1]}/cgroup.procs", "w") as procs:
    procs.write("0")
os.environ["AGENTCGROUP_ROOT"] = sys.argv[1]
os.execvp(sys.argv[2], [*sys.argv[2:], sys.executable, "-m", "agentcgroup", "clean"])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody; CI is root")
def test_a_cgroup_that_cannot_be_removed_is_reported_with_status_1(box: Cgroup) -> None:
    """A subtree is delegated to nobody, and root's dead run has left a process in it."""
    pid, start, rest = run_name().removeprefix("agentcgroup.run-").split("-", 2)
    orphan = box.child(f"agentcgroup.run-{pid}-{int(start) + 1}-{rest}")  # of no living process
    with (
        contextlib.closing(orphan),
        subprocess.Popen(["sleep", "3600"]) as child,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(child.kill)
        orphan.join(child.pid)
        for name in ("", "cgroup.procs", "cgroup.subtree_control"):
            os.chown(f"{box.path}/{name}", 65534, 65534)
        done = subprocess.run(
            [sys.executable, "-c", _CLEAN_AS, box.path, *AS_NOBODY], capture_output=True, text=True
        )
        assert (done.returncode, done.stdout) == (1, ""), done.stderr
        assert done.stderr.startswith(f"cannot remove {orphan.path}: ")
        assert child.poll() is None


def test_without_a_cgroup_there_is_nothing_to_clean() -> None:
    done = _clean("/tmp")
    assert done.returncode == 0
    assert done.stdout.startswith("Nothing to clean: no cgroup v2")
