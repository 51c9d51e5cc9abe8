"""The BPF programs on each kernel of the lab, where all of them run, against known figures."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentcgroup.bpf import AttachedPrograms, bpf_support, libbpf
from agentcgroup.bpf.programs import EVERYWHERE
from agentcgroup.cgroup import Cgroup
from tests.cases.bpf import (
    CASES,
    PACKETS,
    STOPPING,
    Case,
    a_known_tree_of_processes_is_reported_as_it_was,
    counters,
    done,
    events_until,
    inode,
    near,
    number,
    packets_case,
    python,
    settled,
    support_with,
)
from tests.kernel.support import MiB
from tests.support.processes import SOON

#: The lab's scratch disk.
DISK = "/dev/nvme0n1"


@pytest.fixture(scope="module")
def shared() -> Iterator[AttachedPrograms]:
    """Attach once for all tests: an emulated machine is least stable while its code is patched."""
    with AttachedPrograms.open(detail="full") as opened:
        opened.watch_network("/sys/fs/cgroup")
        yield opened


@pytest.fixture
def attached(shared: AttachedPrograms) -> AttachedPrograms:
    shared.poll()
    return shared


def test_all_runs_on_this_kernel() -> None:
    """But for those that a better program replaces."""
    off = {name: why for name, why in bpf_support().programs.items() if why is not None}
    assert bpf_support().problem is None
    assert off.keys() <= {"stop_newborn", "on_oom_mark", "high", "high_over"} | {
        *("high_new", "high_over_new")
    }
    assert all(re.match("this kernel has |on_oom does it", why) for why in off.values()), off


@pytest.mark.parametrize(
    ("capabilities", "denied"),
    [(("bpf", "perfmon"), PACKETS), (("bpf", "perfmon", "net_admin"), set())],
)
def test_capabilities_without_root_are_enough(
    capabilities: tuple[str, ...], denied: set[str]
) -> None:
    programs = support_with(*capabilities)["programs"]
    assert isinstance(programs, dict)
    loads = {name for name, off in bpf_support().programs.items() if off is None}
    assert {name for name, off in programs.items() if off is None} == loads - denied


def test_an_ordinary_user_gets_the_fix() -> None:
    found = support_with()
    assert (found["attached"], found["loader"]) == (None, None)
    assert "CAP_BPF and CAP_PERFMON" in str(found["fix"])


def test_every_counter_is_there(attached: AttachedPrograms, box: Cgroup) -> None:
    found = counters(attached, attached.add(inode(box)))
    assert None not in dataclasses.astuple(found)


@pytest.mark.parametrize("case", CASES + STOPPING, ids=lambda case: case.__name__)
def test_on_this_kernel(case: Case, attached: AttachedPrograms, box: Cgroup) -> None:
    case(attached, box)


def test_without_libbpf(monkeypatch: pytest.MonkeyPatch, box: Cgroup) -> None:
    """The kernel relocates the programs by itself; one case runs all of them."""
    monkeypatch.setattr(libbpf, "libbpf", lambda: None)
    with AttachedPrograms.open(detail="full") as attached:
        running = {name for name, off in attached.programs.items() if off is None}
        assert running == EVERYWHERE - PACKETS  # watch_network() was not called
        a_known_tree_of_processes_is_reported_as_it_was(attached, box)


# ---- memory --------------------------------------------------------------------------------


@pytest.mark.parametrize("advice", ["MADV_HUGEPAGE", "MADV_NOHUGEPAGE"])
def test_charged_memory_is_the_sum_of_all_charges(
    attached: AttachedPrograms, box: Cgroup, advice: str
) -> None:
    """Also where each block is freed before the next one is charged."""
    slot = attached.add(inode(box))
    code = f"""
import mmap
for _ in range({{}}):
    block = mmap.mmap(-1, 16 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    block.madvise(mmap.{advice})
    for at in range(0, 16 << 20, 4096): block[at] = 1
    block.close()
"""
    assert done(python(box, code.format(1))) == 0
    once = number(settled(attached, slot).memory_charged_bytes)
    assert done(python(box, code.format(9))) == 0
    taken = number(settled(attached, slot).memory_charged_bytes) - 2 * once
    assert near(taken, 8 * 16 * MiB)


def test_charged_memory_is_counted_by_thread(
    attached: AttachedPrograms, box: Cgroup, branch: Cgroup
) -> None:
    """Of two threads that work for two calls, each charges its own call."""
    busy, idle = attached.add(inode(box)), attached.add(inode(branch.child("idle")))
    own = Path("/proc/self/cgroup").read_text().strip().removeprefix("0::")
    branch.child("app").join(os.getpid())  # processes in the root cgroup are charged nowhere

    def body(slot: int, size: int) -> None:
        attached.add_thread(slot, threading.get_native_id())
        bytearray(b"x") * size
        attached.remove_thread(threading.get_native_id())

    try:
        threads = [
            threading.Thread(target=body, args=arguments)
            for arguments in ((busy, 64 * MiB), (idle, 1))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        Path("/sys/fs/cgroup" + own, "cgroup.procs").write_text(str(os.getpid()))
    assert near(number(counters(attached, busy).memory_charged_bytes), 64 * MiB)
    assert number(counters(attached, idle).memory_charged_bytes) < MiB // 4


def test_memory_high_throttles_and_reclaims(attached: AttachedPrograms, branch: Cgroup) -> None:
    """Only processes above it; the time is a part of the time that they ran."""
    above, below = branch.child("above"), branch.child("below")
    Path(above.path, "memory.high").write_text(str(24 * MiB))
    slots = [attached.add(inode(cgroup)) for cgroup in (above, below)]
    code = """
import time
began = time.monotonic_ns()
kept = [b"x" * 4096 * 16 for _ in range(380)]  # the throttle grows with the square of the excess
print(time.monotonic_ns() - began)
"""
    for cgroup in (above, below):
        assert done(python(cgroup, code)) == 0
    held, free = (counters(attached, slot) for slot in slots)
    events = dict(
        line.split() for line in Path(above.path, "memory.events").read_text().splitlines()
    )
    assert int(events["high"]) > 0
    assert number(held.memory_high_ns) > 1e6
    assert number(held.reclaim_ns) > 0
    assert (free.memory_high_ns, free.reclaim_ns) == (0, 0)


def test_an_oom_kill_is_reported_with_its_victim(attached: AttachedPrograms, box: Cgroup) -> None:
    Path(box.path, "memory.max").write_text(str(32 * MiB))
    slot = attached.add(inode(box))
    pid = python(box, "bytearray(b'x') * (128 << 20)")
    assert done(pid) == -signal.SIGKILL
    event = events_until(attached, lambda event: event.kind == "oom")[-1]
    exits = [each for each in attached.poll() if each.kind == "exit"]
    assert (event.slot, event.pid) == (slot, pid)
    assert [each.signal for each in exits] in ([signal.SIGKILL], [])
    assert counters(attached, slot).oom_kills == 1


def test_every_victim_of_a_group_is_counted(attached: AttachedPrograms, box: Cgroup) -> None:
    Path(box.path, "memory.max").write_text(str(32 * MiB))
    Path(box.path, "memory.oom.group").write_text("1")
    slot = attached.add(inode(box))
    code = """
import os, signal
for _ in range(2):
    if os.fork() == 0: signal.pause()
bytearray(b"x") * (128 << 20)
"""
    assert done(python(box, code)) == -signal.SIGKILL
    assert box.wait_empty(SOON)
    events = dict(line.split() for line in Path(box.path, "memory.events").read_text().splitlines())
    # The kernel may count the victim that it chose twice: alone, and with its group.
    assert counters(attached, slot).oom_kills == int(events["oom_kill"]) >= 3


# ---- files, blocks, packets ----------------------------------------------------------------


def test_opened_files_are_counted(attached: AttachedPrograms, box: Cgroup) -> None:
    slot = attached.add(inode(box))
    code = "import os\nfor _ in range({}): os.close(os.open('/dev/null', os.O_RDONLY))"
    assert done(python(box, code.format(100))) == 0
    before = number(counters(attached, slot).files_opened)
    assert done(python(box, code.format(1100))) == 0
    assert number(counters(attached, slot).files_opened) - 2 * before == 1000


def test_block_bytes_are_those_of_io_stat(attached: AttachedPrograms, box: Cgroup) -> None:
    slot = attached.add(inode(box))
    code = f"""
import mmap, os
block = mmap.mmap(-1, 1 << 20)
disk = os.open({DISK!r}, os.O_RDWR | os.O_DIRECT)
for _ in range(5): os.write(disk, block)
os.lseek(disk, 0, 0)
for _ in range(3): os.readv(disk, [block])
"""
    assert done(python(box, code)) == 0
    found = settled(attached, slot)
    stat = Path(box.path, "io.stat").read_text()
    assert f"rbytes={3 * MiB} wbytes={5 * MiB} " in stat
    assert (found.block_read_bytes, found.block_write_bytes) == (3 * MiB, 5 * MiB)
    assert (found.io_read_bytes, found.io_write_bytes) == (3 * MiB, 5 * MiB)


def test_write_back_counts_for_the_call_that_wrote(attached: AttachedPrograms, box: Cgroup) -> None:
    """The kernel writes the page cache back, or another process' sync does."""
    slot = attached.add(inode(box))
    code = f"""
import os
disk = os.open({DISK!r}, os.O_WRONLY)
os.write(disk, bytes(4 << 20))
os._exit(0)
"""
    assert done(python(box, code)) == 0
    disk = os.open(DISK, os.O_RDONLY)
    os.fsync(disk)
    os.close(disk)
    found = settled(attached, slot)
    assert found.io_write_bytes == 4 * MiB
    assert found.block_write_bytes == 4 * MiB


def test_packets_count_for_the_call_that_owns_the_socket(
    attached: AttachedPrograms, box: Cgroup
) -> None:
    packets_case(attached, box)


def test_waits_for_a_cpu_are_sorted_by_their_length(
    attached: AttachedPrograms, box: Cgroup
) -> None:
    slot = attached.add(inode(box))
    code = """
import os, time
os.sched_setaffinity(0, [0])
end = time.process_time() + 0.5
while time.process_time() < end: pass
"""
    pids = [python(box, code) for _ in range(2)]
    assert [done(pid) for pid in pids] == [0, 0]
    found = settled(attached, slot)
    waits = found.run_queue_waits
    assert waits is not None
    # Each wait is less than the bound of its place, and at least half of it.
    most = sum(count << place for place, count in enumerate(waits)) * 1000
    assert most / 2 <= number(found.run_delay_ns) <= most
