"""BPF support by capability, and that nothing stays loaded; needs root, to drop capabilities."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agentcgroup.bpf import (
    AttachedPrograms,
    BpfUnavailable,
    bpf_support,
    bpf_syscall,
    libbpf,
    loader,
)
from agentcgroup.bpf.programs import PROGRAMS, absent_counters
from agentcgroup.cgroup import Cgroup
from tests.cases.bpf import PACKETS, support_with


def loads() -> set[str]:
    return {name for name, off in bpf_support().programs.items() if off is None}


def test_root_loads_all_that_this_kernel_has() -> None:
    assert bpf_support().problem is None
    assert bpf_support().loader == "libbpf"
    assert bpf_support().libbpf == libbpf.version()
    assert {name for name, each in PROGRAMS.items() if each.needed} | PACKETS <= loads()
    for name, off in bpf_support().programs.items():
        assert off is None or len(off) > 10, name


def test_an_ordinary_user_gets_the_reason_and_the_fix() -> None:
    found = support_with()
    assert found["attached"] is None
    assert found["loader"] is None
    assert found["rights"] == []
    assert found["problem"] == "This process may not load BPF programs that look at the kernel."
    assert found["fix"] == "run as root, or with the capabilities CAP_BPF and CAP_PERFMON"


def test_cap_bpf_alone_is_not_enough() -> None:
    found = support_with("bpf")
    assert found["attached"] is None
    assert found["rights"] == ["CAP_BPF"]
    assert "CAP_PERFMON" in str(found["fix"])


def test_cap_bpf_and_cap_perfmon_load_all_but_packets() -> None:
    found = support_with("bpf", "perfmon")
    programs = found["programs"]
    assert isinstance(programs, dict)
    assert {name for name, off in programs.items() if off is None} == loads() - PACKETS
    assert programs["on_egress"] == "needs CAP_NET_ADMIN to be attached"
    assert isinstance(found["attached"], dict)
    assert {name for name, off in found["attached"].items() if off is None} == loads() - PACKETS


def test_cap_net_admin_adds_the_packets() -> None:
    programs = support_with("bpf", "perfmon", "net_admin")["programs"]
    assert isinstance(programs, dict)
    assert {name for name, off in programs.items() if off is None} == loads()


def programs_of(pid: int) -> set[int]:
    """Return the kernel's ids of the programs of which a process has descriptors."""
    found = set()
    for entry in os.listdir(f"/proc/{pid}/fdinfo"):
        for line in Path(f"/proc/{pid}/fdinfo/{entry}").read_text().splitlines():
            if line.startswith("prog_id:"):
                found.add(int(line.split()[1]))
    return found


def is_loaded(number: int) -> bool:
    try:
        os.close(bpf_syscall.bpf(13, number.to_bytes(4, "little").ljust(12, b"\0")))
    except FileNotFoundError:
        return False
    return True


def test_nothing_stays_loaded_when_its_holder_is_killed() -> None:
    code = """
from agentcgroup.bpf import AttachedPrograms
attached = AttachedPrograms.open(detail="full")
print("open", flush=True)
input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        programs = programs_of(holder.pid)
        assert len(programs) > 8
        assert all(map(is_loaded, programs))
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    # The kernel unloads them when no CPU can run them any more: after an RCU grace period.
    for _ in range(100):
        if not any(map(is_loaded, programs)):
            break
        signal.sigtimedwait([], 0.1)
    assert not any(map(is_loaded, programs))


def test_close_closes_every_descriptor() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with AttachedPrograms.open(detail="full") as attached:
        assert len(os.listdir("/proc/self/fd")) > before
    attached.close()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_on_another_system_that_is_the_problem(system: str) -> None:
    code = f"""
import sys
sys.platform = {system!r}
from agentcgroup.bpf import bpf_support
print(bpf_support().problem, bpf_support().rights)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "BPF is a part of Linux. frozenset()\n"


def test_without_the_compiled_programs_the_fix_names_the_compiler(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(loader, "_FOLDER", str(tmp_path))
    with pytest.raises(BpfUnavailable, match="no compiled BPF programs") as caught:
        AttachedPrograms.open()
    assert caught.value.fix is not None
    assert "clang" in caught.value.fix


def test_ids_are_those_of_the_readers_pid_namespace(box: Cgroup) -> None:
    code = f"""
import os, subprocess
from agentcgroup.bpf import AttachedPrograms
with AttachedPrograms.open() as attached:
    slot = attached.add(os.stat({box.path!r}).st_ino)
    child = subprocess.Popen(
        ["sh", "-c", "echo 0 > {box.path}/cgroup.procs; exit 0"])
    child.wait()
    found = attached.poll()
    assert child.pid < 1000, child.pid
    assert [(e.kind, e.pid, e.ppid) for e in found] == [
        ("attach", child.pid, os.getpid()), ("exit", child.pid, os.getpid())], found
    attached.add_thread(slot, os.getpid())
    outside = os.fork()  # not subprocess: its vfork waits for the child, which is stopped
    if outside == 0:
        os._exit(7)
    (escape,) = [e for e in attached.poll(5) if e.kind == "escape"]
    assert (escape.pid, escape.ppid) == (outside, os.getpid())
    os.kill(outside, 18)
    assert os.waitstatus_to_exitcode(os.waitpid(outside, 0)[1]) == 7
"""
    namespace = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    subprocess.run([*namespace, sys.executable, "-c", code], check=True)


def test_a_counter_that_no_program_fills_is_absent() -> None:
    assert absent_counters(PROGRAMS) == frozenset()
    assert "oom_kills" not in absent_counters(PROGRAMS.keys() - {"on_oom"})
    assert "oom_kills" in absent_counters(PROGRAMS.keys() - {"on_oom", "on_oom_mark"})
    assert "reclaim_ns" in absent_counters(PROGRAMS.keys() - {"direct_reclaim"})
    assert "memory_high_ns" not in absent_counters(PROGRAMS.keys() - {"high", "high_over"})
    assert "memory_high_ns" in absent_counters(PROGRAMS.keys() - {"high", "high_new"})
