"""The life of a cgroup on the real kernel of this machine; no controller is needed."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from agentcgroup.cgroup import Cgroup, Limits, removal
from tests.support.processes import SOON, until


def start(cgroup: Cgroup, *command: str) -> subprocess.Popen[bytes]:
    """Start a command and move it into the cgroup."""
    process = subprocess.Popen(command, start_new_session=True)
    cgroup.join(process.pid)
    return process


def sleeper(cgroup: Cgroup) -> subprocess.Popen[bytes]:
    return start(cgroup, "sleep", "1000")


def test_a_child_is_made_with_its_own_path_name_and_descriptor(box: Cgroup) -> None:
    child = box.child("one")
    assert (child.path, child.name) == (f"{box.path}/one", "one")
    assert os.path.samestat(os.fstat(child.fd), os.stat(child.path))
    assert os.get_inheritable(child.fd) is False
    assert box.children() == ["one"]
    child.remove()
    assert box.children() == []
    child.close()


def test_a_child_that_is_there_already_is_an_error_unless_asked_for(box: Cgroup) -> None:
    box.child("one").close()
    with pytest.raises(FileExistsError) as caught:
        box.child("one")
    assert caught.value.filename == f"{box.path}/one"
    box.child("one", exist_ok=True).close()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "a\0b", "a\nb", "../../up"])
def test_a_name_that_is_not_one_plain_part_is_refused(box: Cgroup, name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a cgroup"):
        box.child(name)
    assert box.children() == []


def test_a_path_outside_cgroup_v2_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="not on a cgroup v2") as caught:
        Cgroup.open(str(tmp_path))
    assert caught.value.errno == errno.ENOTSUP


def test_a_refused_write_names_the_file_and_the_data(box: Cgroup) -> None:
    with pytest.raises(ProcessLookupError) as caught:
        box.join(2**22 - 1)
    assert caught.value.filename == f"{box.path}/cgroup.procs"
    assert "4194303" in str(caught.value)


def test_procs_and_populated_follow_the_processes(box: Cgroup) -> None:
    assert (box.procs(), box.populated()) == ([], False)
    process = sleeper(box)
    assert (box.procs(), box.populated()) == ([process.pid], True)
    process.kill()
    assert box.wait_empty(SOON)
    assert box.populated() is False  # before the zombie is reaped
    process.wait()


def test_waiting_for_a_busy_cgroup_ends_at_the_timeout(box: Cgroup) -> None:
    process = sleeper(box)
    started = time.monotonic()
    assert box.wait_empty(0.3) is False
    assert 0.29 < time.monotonic() - started < SOON
    box.kill()
    process.wait()


def test_waiting_ends_soon_after_the_last_process(box: Cgroup) -> None:
    process = start(box, "sleep", "0.4")
    started = time.monotonic()
    assert box.wait_empty(SOON)
    assert time.monotonic() - started < SOON / 2
    process.wait()


def test_kill_ends_the_whole_tree_even_what_left_its_process_group(box: Cgroup) -> None:
    script = "setsid sleep 1000 & (trap '' TERM; sleep 1000) & echo ready; wait"
    inner = box.child("inner")
    process = subprocess.Popen(
        ["sh", "-c", f"echo 0 > {inner.path}/cgroup.procs; {script}"],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    box.kill()
    assert box.wait_empty(SOON)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    inner.close()


def test_kill_one_by_one_leaves_nothing_either(box: Cgroup) -> None:
    """The way before 5.14, without cgroup.kill, run here on the kernel at hand."""
    inner = box.child("inner")
    processes = [sleeper(box), sleeper(inner), sleeper(inner)]
    removal.kill_one_by_one(box._directory)
    assert box.wait_empty(SOON)
    assert [process.wait() for process in processes] == [-signal.SIGKILL] * 3
    inner.close()


def test_frozen_processes_stand_still_until_thawed(box: Cgroup) -> None:
    process = start(box, "sh", "-c", "while :; do :; done")
    assert box.freeze(SOON)
    before = box.usage().cpu_usage_s
    time.sleep(0.2)
    assert box.usage().cpu_usage_s == pytest.approx(before, abs=0.01)
    box.thaw()
    assert before is not None
    assert until(lambda: (box.usage().cpu_usage_s or 0) > before + 0.02)
    box.kill()
    process.wait()


def test_frozen_processes_can_be_killed(box: Cgroup) -> None:
    process = sleeper(box)
    assert box.freeze(SOON)
    box.kill()
    assert process.wait() == -signal.SIGKILL


def test_cpu_time_is_counted_without_any_controller(box: Cgroup) -> None:
    process = start(box, "sh", "-c", "while :; do :; done")
    assert until(lambda: (box.usage().cpu_usage_s or 0) > 0.05)
    process.kill()
    process.wait()


def test_pressure_is_read_where_the_kernel_accounts_it(box: Cgroup) -> None:
    pressure = box.pressure("cpu")
    assert pressure is not None
    assert pressure.some_total_s >= 0


def test_remove_takes_processes_and_children_with_it(box: Cgroup) -> None:
    top = box.child("top")
    deep = top
    for name in "abc":
        lower = deep.child(name)
        deep.close() if deep is not top else None
        deep = lower
    processes = [sleeper(top), sleeper(deep)]
    top.remove()
    assert not os.path.exists(top.path)
    assert [process.wait() for process in processes] == [-signal.SIGKILL] * 2
    top.remove()  # gone already is fine
    deep.close()
    top.close()


def test_a_removed_cgroup_reads_as_empty_and_refuses_limits(box: Cgroup) -> None:
    child = box.child("one")
    child.remove()
    assert child.populated() is False
    assert child.wait_empty(0) is True
    child.kill()
    with pytest.raises(FileNotFoundError, match="gone"):
        child.set(Limits(pids_max=5))
    child.close()


def test_limits_without_a_file_are_named_not_lost(box: Cgroup) -> None:
    """A grandchild of a cgroup that enables nothing has no controller, on any machine."""
    with contextlib.closing(box.child("bare")) as bare:
        wishes = Limits(
            memory_high=1 << 20,
            memory_max=1 << 20,
            memory_oom_group=False,
            cpu_weight=50,
            cpu_max=(50_000, 100_000),
            pids_max=10,
            io_max={"8:0": {"rbps": 1}, "8:16": {"rbps": 1}},
            cpuset_cpus="0",
        )
        assert bare.set(wishes).keys() == {
            "memory_high",
            "memory_max",
            "cpu_weight",
            "cpu_max",
            "pids_max",
            "io_max",
            "cpuset_cpus",
        }
        assert bare.enable(["memory", "pids"]) == frozenset()
        usage, events = bare.usage(), bare.events()
        assert (usage.memory_peak_bytes, usage.pids_peak, usage.io_read_bytes) == (None,) * 3
        assert (events.oom, events.oom_local, events.pids_max) == (None,) * 3
