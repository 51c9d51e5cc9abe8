"""The name of a run's directory has its owner; runs of dead owners are removed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from agentcgroup.cgroup import Cgroup
from agentcgroup.place.owner import Owner, is_run, orphans, reap, run_name

ME = Owner.myself()


def test_a_run_is_named_after_the_process_that_made_it() -> None:
    owner = Owner.parse(run_name())
    assert owner == ME
    assert ME.pid == os.getpid()
    assert ME.life() == "alive"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "agentcgroup",
        "agentcgroup.sup",
        "agentcgroup.run-",
        "agentcgroup.run-1-2-0123abcd",
        "agentcgroup.run-1-2-0123ABCD-4",
        "agentcgroup.run-1-2-0123abcd-4-5",
        "agentcgroup.run-1-2-0123abcd-4\n",
        "agentcgroup.run-\u0661-2-0123abcd-4",
        "agentcgroup.run-+1-2-0123abcd-4",
        "xagentcgroup.run-1-2-0123abcd-4",
        "user.slice",
    ],
)
def test_no_other_name_is_taken_for_a_run(name: str) -> None:
    assert Owner.parse(name) is None
    assert not is_run(name)


def test_an_owner_whose_pid_was_used_again_is_dead() -> None:
    assert replace(ME, start=ME.start - 1).life() == "dead"


def test_an_owner_of_another_boot_is_dead() -> None:
    assert replace(ME, boot="00000000").life() == "dead"


def test_an_owner_of_another_pid_namespace_is_not_judged() -> None:
    assert replace(ME, pid_namespace=1).life() == "unknown"


def test_an_owner_that_is_a_zombie_is_dead() -> None:
    process = subprocess.Popen(["sleep", "1000"])
    stat = Path(f"/proc/{process.pid}/stat").read_bytes().rpartition(b")")[2].split()
    owner = replace(ME, pid=process.pid, start=int(stat[19]))
    assert owner.life() == "alive"
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert owner.life() == "dead"
    process.wait()


def test_a_command_name_with_brackets_does_not_confuse_the_start_time() -> None:
    before = Owner.myself()
    with open("/proc/self/comm", "r+") as comm:
        name = comm.read()
        comm.write("a) R 1 (b")
        comm.flush()
        after = Owner.myself()
        comm.write(name)
    assert after == before


def test_only_dead_owners_runs_are_reaped(box: Cgroup) -> None:
    dead = replace(ME, boot="00000000").name()
    foreign = replace(ME, pid_namespace=1).name()
    for name in (dead, foreign, ME.name(), "agentcgroup.sup", "user.slice"):
        box.child(name).close()
    assert orphans(box) == [dead]
    assert [(one.path, one.error) for one in reap(box)] == [(f"{box.path}/{dead}", None)]
    assert sorted(box.children()) == sorted([foreign, ME.name(), "agentcgroup.sup", "user.slice"])
    assert orphans(box, force=True) == [foreign]
    reap(box, force=True)
    assert foreign not in box.children()


def test_reaping_ends_what_the_dead_left_running(box: Cgroup) -> None:
    orphan = box.child(replace(ME, boot="00000000").name())
    call = orphan.child("agent-1").child("call-1")
    process = subprocess.Popen(["sleep", "1000"])
    call.join(process.pid)
    assert [one.error for one in reap(box)] == [None]
    assert process.wait() == -signal.SIGKILL
    assert box.children() == []


def test_a_killed_process_leaves_a_run_that_is_reaped(box: Cgroup) -> None:
    code = (
        "import sys; from agentcgroup.cgroup import Cgroup;"
        "from agentcgroup.place.owner import run_name;"
        "Cgroup.open(sys.argv[1]).child(run_name()); print(flush=True); input()"
    )
    supervisor = subprocess.Popen(
        [sys.executable, "-c", code, box.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert supervisor.stdout is not None
    supervisor.stdout.readline()
    assert len(box.children()) == 1
    assert reap(box) == []
    supervisor.kill()
    supervisor.communicate()
    assert len(reap(box)) == 1
    assert box.children() == []
