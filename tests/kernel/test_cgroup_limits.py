"""Each limit is written, reads back, and is enforced by the kernel."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agentcgroup.cgroup import MAX, Cgroup, Limits
from tests.support.processes import SOON, until

MIB = 1 << 20

#: Waits for a line, then takes 256 MiB and touches them.
HOG = "input(); data = bytearray(256 << 20); data[::4096] = b'x' * len(data[::4096]); input()"
#: Waits for a line, then starts processes until it may not, and says how many it had.
FORKER = """
import os, sys
input()
count = 0
try:
    while count < 200:
        if os.fork() == 0:
            os.read(0, 1)
            os._exit(0)
        count += 1
except BlockingIOError:
    pass
print(count, flush=True)
"""


def start(cgroup: Cgroup, *command: str) -> subprocess.Popen[str]:
    """Start a command, move it into the cgroup, and keep its ends of two pipes."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    cgroup.join(process.pid)
    return process


def python(cgroup: Cgroup, code: str) -> subprocess.Popen[str]:
    return start(cgroup, sys.executable, "-ISc", code)


def say(process: subprocess.Popen[str]) -> None:
    """Send the line that a started program waits for."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def finish(process: subprocess.Popen[str]) -> int:
    """Close both pipes and wait for the end."""
    with contextlib.suppress(BrokenPipeError):
        process.communicate(timeout=60)
    return process.returncode


def text(cgroup: Cgroup, file: str) -> str:
    return Path(cgroup.path, file).read_text().strip()


def scratch_disk() -> str:
    """Return "MAJOR:MINOR" of a real block device of this machine."""
    for device in sorted(Path("/sys/block").iterdir()):
        if (device / "device").exists():
            return (device / "dev").read_text().strip()
    raise AssertionError("this machine has no block device, and the io tests need one")


# Written and read back


@pytest.mark.parametrize(
    ("limits", "file", "expected"),
    [
        (Limits(memory_min=4 * MIB), "memory.min", str(4 * MIB)),
        (Limits(memory_low=4 * MIB), "memory.low", str(4 * MIB)),
        (Limits(memory_high=64 * MIB), "memory.high", str(64 * MIB)),
        (Limits(memory_max=64 * MIB), "memory.max", str(64 * MIB)),
        (Limits(memory_max=MAX), "memory.max", "max"),
        (Limits(memory_swap_max=0), "memory.swap.max", "0"),
        (Limits(memory_oom_group=True), "memory.oom.group", "1"),
        (Limits(memory_oom_group=False), "memory.oom.group", "0"),
        (Limits(cpu_weight=321), "cpu.weight", "321"),
        (Limits(cpu_max=(150_000, 100_000)), "cpu.max", "150000 100000"),
        (Limits(cpu_max=(MAX, 50_000)), "cpu.max", "max 50000"),
        (Limits(cpu_max=(50_000, 100_000), cpu_max_burst=20_000), "cpu.max.burst", "20000"),
        (Limits(pids_max=17), "pids.max", "17"),
        (Limits(pids_max=MAX), "pids.max", "max"),
        (Limits(io_weight=250), "io.weight", "default 250"),
        (Limits(cpuset_cpus="0"), "cpuset.cpus", "0"),
        (Limits(cpuset_mems="0"), "cpuset.mems", "0"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value else "",
)
def test_a_limit_reads_back_as_written(
    box: Cgroup, limits: Limits, file: str, expected: str
) -> None:
    assert box.set(limits) == {}
    assert text(box, file) == expected


def test_io_max_reads_back_as_written(box: Cgroup) -> None:
    disk = scratch_disk()
    limits = Limits(io_max={disk: {"rbps": MIB, "wiops": 50}})
    assert box.set(limits) == {}
    assert text(box, "io.max") == f"{disk} rbps={MIB} wbps=max riops=max wiops=50"


def test_io_latency_reads_back_as_written_or_is_reported_as_missing(box: Cgroup) -> None:
    """Kernels without CONFIG_BLK_CGROUP_IOLATENCY lack the file."""
    disk = scratch_disk()
    missing = box.set(Limits(io_latency={disk: 5000}))
    if Path(box.path, "io.latency").exists():
        assert missing == {}
        assert text(box, "io.latency") == f"{disk} target=5000"
    else:
        assert missing == {"io_latency": None}


def test_further_files_are_written_after_the_limits_of_rows(box: Cgroup) -> None:
    files = {
        "memory.swap.high": str(64 * MIB),
        "memory.zswap.max": "0",
        "cpu.uclamp.max": "50.00",
        "cpuset.cpus.partition": "member",
    }
    there = {file for file in files if Path(box.path, file).exists()}
    assert "cpuset.cpus.partition" in there
    assert box.set(Limits(pids_max=17, unified=files)).keys() == files.keys() - there
    assert {file: text(box, file) for file in there} == {file: files[file] for file in there}
    unmet = box.set(Limits(pids_max=18, unified={"cpuset.cpus.partition": "nonsense"}))
    refused = unmet["cpuset.cpus.partition"]
    assert refused is not None
    assert refused.filename == f"{box.path}/cpuset.cpus.partition"
    assert "nonsense" in str(refused)
    assert text(box, "pids.max") == "18"


def test_a_device_that_is_not_there_is_named_in_the_error(box: Cgroup) -> None:
    disk = scratch_disk()
    refused = box.set(Limits(io_max={"250:250": {"rbps": 1}, disk: {"rbps": MIB}}))["io_max"]
    assert refused is not None
    assert (refused.errno, refused.filename) == (errno.ENODEV, f"{box.path}/io.max")
    assert "250:250 rbps=1" in str(refused)
    assert text(box, "io.max") == f"{disk} rbps={MIB} wbps=max riops=max wiops=max"


def test_a_quota_and_its_burst_can_both_be_lowered_and_raised(box: Cgroup) -> None:
    """The kernel refuses a burst above the quota at every moment between the two writes."""
    for quota in (100_000, 20_000, 80_000):
        assert box.set(Limits(cpu_max=(quota, 100_000), cpu_max_burst=quota)) == {}
        assert text(box, "cpu.max.burst") == str(quota)


def test_a_value_the_kernel_refuses_is_named_in_the_error(box: Cgroup) -> None:
    unmet = box.set(Limits(cpuset_cpus="99", memory_max=64 * MIB, pids_max=17))
    assert unmet.keys() == {"cpuset_cpus"}
    assert "writing '99'" in str(unmet["cpuset_cpus"])
    assert (text(box, "memory.max"), text(box, "pids.max")) == (str(64 * MIB), "17")


# Memory


def test_memory_max_kills_and_the_events_say_whose_limit_it_was(box: Cgroup) -> None:
    assert not box.set(Limits(memory_max=64 * MIB, memory_swap_max=0, memory_oom_group=True))
    hog = python(box, HOG)
    say(hog)
    assert hog.wait(60) == -signal.SIGKILL
    finish(hog)
    events = box.events()
    assert events.oom
    assert events.oom_kill
    assert events.oom_local
    assert events.oom_kill_local
    assert events.memory_max
    peak = box.usage().memory_peak_bytes
    assert peak is not None
    assert 60 * MIB < peak <= 64 * MIB


def test_an_oom_of_the_cgroup_above_is_not_the_calls_own(branch: Cgroup, box: Cgroup) -> None:
    assert not branch.set(Limits(memory_max=64 * MIB, memory_swap_max=0))
    hog = python(box, HOG)
    say(hog)
    assert hog.wait(60) == -signal.SIGKILL
    finish(hog)
    call, above = box.events(), branch.events()
    assert call.oom_kill
    assert call.oom_local == 0
    assert above.oom_local
    assert above.oom_kill_local == 0


def test_oom_group_takes_the_bystander_along(box: Cgroup) -> None:
    assert not box.set(Limits(memory_max=64 * MIB, memory_swap_max=0, memory_oom_group=True))
    bystander = start(box, "sleep", "1000")
    hog = python(box, HOG)
    say(hog)
    assert hog.wait(60) == -signal.SIGKILL
    assert bystander.wait(60) == -signal.SIGKILL
    finish(hog), finish(bystander)


def test_memory_high_throttles_and_is_counted(box: Cgroup) -> None:
    assert not box.set(Limits(memory_high=32 * MIB, memory_max=512 * MIB, memory_swap_max=0))
    hog = python(box, HOG)
    say(hog)
    assert until(lambda: bool(box.events().memory_high))
    assert box.events().oom == 0
    box.kill()
    finish(hog)


def test_lowering_memory_max_below_use_kills_at_once(box: Cgroup) -> None:
    hog = python(box, HOG.replace("input(); data", "data", 1))
    assert until(lambda: (box.usage().memory_peak_bytes or 0) >= 256 * MIB)
    assert not box.set(Limits(memory_max=16 * MIB, memory_swap_max=0))
    assert hog.wait(60) == -signal.SIGKILL
    finish(hog)
    assert box.events().oom_kill_local


# Tasks


def test_pids_max_refuses_the_fork_and_counts_it(box: Cgroup) -> None:
    assert not box.set(Limits(pids_max=10))
    forker = python(box, FORKER)
    say(forker)
    assert forker.stdout is not None
    assert forker.stdout.readline() == "9\n"
    assert box.events().pids_max
    assert box.usage().pids_peak in (10, None)
    assert (box.usage().pids_peak is None) == (not Path(box.path, "pids.peak").exists())
    box.kill()
    finish(forker)


def test_pids_max_of_the_cgroup_above_is_told_apart_where_the_kernel_can(
    branch: Cgroup, box: Cgroup
) -> None:
    """Since 6.11 the limit's owner counts; before, the cgroup in which the fork failed."""
    assert not branch.set(Limits(pids_max=10))
    forker = python(box, FORKER)
    say(forker)
    assert forker.stdout is not None
    assert forker.stdout.readline() == "9\n"
    separate = Path(box.path, "pids.events.local").exists()
    assert bool(box.events().pids_max) is not separate
    assert bool(branch.events().pids_max) is separate
    box.kill()
    finish(forker)


# CPU


def test_cpu_max_holds_a_busy_loop_back_and_counts_it(box: Cgroup) -> None:
    assert not box.set(Limits(cpu_max=(10_000, 100_000)))
    loop = start(box, "sh", "-c", "while :; do :; done")
    before, started = box.usage().cpu_usage_s, time.monotonic()
    assert before is not None
    assert until(lambda: (box.usage().throttled_periods or 0) >= 15)

    def share() -> float:
        return ((box.usage().cpu_usage_s or 0) - before) / (time.monotonic() - started)

    # A tenth, and what the tick adds; where the machine stood still, that is paid back first.
    assert until(lambda: share() < 0.3)
    assert box.usage().throttled_s
    box.kill()
    finish(loop)


def test_cpuset_confines_to_its_cpus(box: Cgroup) -> None:
    assert not box.set(Limits(cpuset_cpus="0"))
    process = python(box, "import os; input(); print(os.sched_getaffinity(0))")
    say(process)
    assert process.stdout is not None
    assert process.stdout.readline() == "{0}\n"
    finish(process)


# Input and output


def test_io_is_counted_and_held_back(box: Cgroup) -> None:
    """2 MiB at 1 MiB a second take a second at least; page cache is passed by O_DIRECT."""
    number = scratch_disk()
    device = f"/dev/{Path(f'/sys/dev/block/{number}').resolve().name}"
    assert not box.set(Limits(io_max={number: {"rbps": MIB}}))
    process = start(
        box, "sh", "-c", f"read _; exec dd if={device} of=/dev/null bs=256k count=8 iflag=direct"
    )
    started = time.monotonic()
    say(process)
    assert finish(process) == 0
    assert time.monotonic() - started > 0.8
    usage = box.usage()
    assert usage.io_read_bytes is not None
    assert usage.io_read_bytes >= 2 * MIB
    assert usage.io_write_bytes == 0


# Freezing and killing


def test_a_frozen_cgroup_uses_no_cpu_and_goes_on_when_thawed(box: Cgroup) -> None:
    loop = start(box, "sh", "-c", "while :; do :; done")
    assert box.freeze(SOON)
    before = box.usage().cpu_usage_s
    time.sleep(0.3)
    assert box.usage().cpu_usage_s == pytest.approx(before, abs=0.02)
    box.thaw()
    assert until(lambda: (box.usage().cpu_usage_s or 0) > (before or 0) + 0.04)
    box.kill()
    finish(loop)


def test_kill_ends_a_hundred_processes(box: Cgroup) -> None:
    crowd = start(
        box, "sh", "-c", "i=0; while [ $i -lt 99 ]; do sleep 1000 & i=$((i+1)); done; echo; wait"
    )
    assert crowd.stdout is not None
    crowd.stdout.readline()
    assert len(box.procs()) == 100
    box.kill()
    assert box.wait_empty(60)
    assert box.procs() == []
    assert finish(crowd) == -signal.SIGKILL


def test_a_long_list_of_processes_is_read_whole(box: Cgroup) -> None:
    """cgroup.procs of 700 processes does not fit into one page."""
    forker = python(
        box,
        "import os\n"
        "for _ in range(700):\n"
        "    if os.fork() == 0:\n"
        "        os.read(0, 1)\n"
        "        os._exit(0)\n"
        "print(flush=True)\n"
        "os.read(0, 1)\n",
    )
    assert forker.stdout is not None
    forker.stdout.readline()
    procs = box.procs()
    assert len(procs) == len(set(procs)) == 701
    box.kill()
    assert box.wait_empty(60)
    finish(forker)


def test_remove_takes_a_busy_cgroup_away(branch: Cgroup) -> None:
    cgroup = branch.child("busy")
    process = python(cgroup, HOG.replace("input(); data", "data", 1))
    cgroup.remove(SOON)
    assert not os.path.exists(cgroup.path)
    assert finish(process) == -signal.SIGKILL
    cgroup.close()


def test_a_new_cgroup_starts_its_counters_at_nothing(box: Cgroup) -> None:
    usage, events = box.usage(), box.events()
    assert (usage.memory_peak_bytes, usage.cpu_usage_s, usage.throttled_s) == (0, 0, 0)
    assert (usage.io_read_bytes, usage.io_write_bytes) == (0, 0)
    assert not any((events.oom, events.oom_kill, events.oom_local, events.pids_max))
    assert events.oom_local == 0


def test_memory_pressure_wakes_who_waits_for_it(box: Cgroup) -> None:
    import select

    assert not box.set(Limits(memory_high=32 * MIB, memory_max=512 * MIB, memory_swap_max=0))
    fd = box.pressure_trigger("memory", stall_s=0.05, window_s=1)
    try:
        poll = select.poll()
        poll.register(fd, select.POLLPRI)
        hog = python(box, HOG)
        say(hog)
        assert poll.poll(int(SOON * 1000)) == [(fd, select.POLLPRI)]
    finally:
        os.close(fd)
    box.kill()
    finish(hog)
