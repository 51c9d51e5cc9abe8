"""Cases that the BPF programs must pass on every kernel; run natively and in the lab's machines.

Each case gets attached programs and an empty cgroup of its own. It compares them with the kernel's
own figures, wait4(2), cpu.stat and /proc, and with process trees that are known beforehand.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from agentcgroup import _native
from agentcgroup.bpf import (
    Announcer,
    AttachedPrograms,
    BpfEvent,
    Counters,
    CountersView,
    bpf_syscall,
)
from agentcgroup.bpf.programs import PROGRAMS
from agentcgroup.cgroup import Cgroup
from tests.support.processes import SOON, state, until

Case = Callable[[AttachedPrograms, Cgroup], None]
CASES: list[Case] = []
#: Cases in which a process that is born outside is stopped.
STOPPING: list[Case] = []

#: Uses about a quarter of a second of CPU and some memory, whatever the machine.
WORK = """
import time
end = time.process_time() + 0.25
kept = bytearray(8 << 20)
while time.process_time() < end: sum(range(1000))
"""


#: Programs that need CAP_NET_ADMIN too.
PACKETS = {name for name, program in PROGRAMS.items() if program.hook == "cgroup_skb"}
_TELL = """
import dataclasses, json
from agentcgroup.bpf import BpfUnavailable, AttachedPrograms, bpf_support
found = bpf_support()
try:
    with AttachedPrograms.open(detail="full") as attached:
        programs = dict(attached.programs)
except BpfUnavailable as error:
    programs = None
print(json.dumps({
    "programs": dict(found.programs), "attached": programs, "loader": found.loader,
    "rights": sorted(found.rights), "problem": found.problem, "fix": found.fix,
}))
"""


def support_with(*capabilities: str) -> dict[str, object]:
    """Return the BPF support of an ordinary user with these capabilities, who may read any file."""
    given = ",".join(f"+{name}" for name in ("dac_read_search", *capabilities))
    ran = subprocess.run(
        [
            *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
            *(f"--inh-caps=-all,{given}", f"--ambient-caps=-all,{given}"),
            *(sys.executable, "-c", _TELL),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    found: dict[str, object] = json.loads(ran.stdout)
    return found


def case(function: Case) -> Case:
    CASES.append(function)
    return function


def stopping_case(function: Case) -> Case:
    STOPPING.append(function)
    return function


def born_in(cgroup: Cgroup, *command: str) -> int:
    """Start a command in the cgroup from its first instruction; returns its pid."""
    path = command[0].encode()
    argv = [word.encode() for word in command]
    environment = [b"PATH=" + os.environ["PATH"].encode()]
    return _native.posix_spawn(cgroup.fd, path, [path], argv, environment, [], 0, 0, 0, 0, 0, 0)


def python(cgroup: Cgroup, code: str) -> int:
    """Start Python code in the cgroup; returns its pid."""
    return born_in(cgroup, sys.executable, "-I", "-S", "-c", code)


def done(pid: int) -> int:
    """Wait for a process and return its exit status, as subprocess does."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def inode(cgroup: Cgroup) -> int:
    return os.stat(cgroup.path).st_ino


def counters(attached: AttachedPrograms, slot: int) -> Counters:
    found = attached.read(slot, living=True)
    assert found is not None
    return found


def number(count: int | None) -> int:
    assert count is not None
    return count


def settled(attached: AttachedPrograms, slot: int) -> Counters:
    """Return the counters once the kernel has freed the ended processes, soon after they end."""
    assert until(lambda: slot not in _slots_of_members(attached)), "not all tasks were freed"
    return counters(attached, slot)


#: bpf(2), uapi/linux/bpf.h.
_MAP_LOOKUP_ELEM, _MAP_GET_NEXT_KEY = 1, 4
#: More than a `struct member` has.
_MEMBER_BYTES = 256


def _slots_of_members(attached: AttachedPrograms) -> set[int]:
    """Return the slots of all tasks in the map `members`; see bpf/members.bpf.h."""
    found: set[int] = set()
    key, value = ctypes.create_string_buffer(8), ctypes.create_string_buffer(_MEMBER_BYTES)
    fd, at, to = attached._maps["members"], ctypes.addressof(key), ctypes.addressof(value)
    before = 0  # a null pointer asks for the first key
    while True:
        try:
            bpf_syscall.bpf(_MAP_GET_NEXT_KEY, struct.pack("=IxxxxQQQ", fd, before, at, 0))
        except FileNotFoundError:
            return found
        before = at
        with contextlib.suppress(FileNotFoundError):  # freed meanwhile
            bpf_syscall.bpf(_MAP_LOOKUP_ELEM, struct.pack("=IxxxxQQQ", fd, at, to, 0))
            found.add(*struct.unpack_from("=I", value))


def near(found: float, truth: float, share: float = 0.01, at_least: float = 0) -> bool:
    return abs(found - truth) <= max(truth * share, at_least)


def cpu_stat(cgroup: Cgroup) -> int:
    """Return the CPU time of a cgroup in nanoseconds."""
    lines = Path(cgroup.path, "cpu.stat").read_text().splitlines()
    return int(lines[0].removeprefix("usage_usec ")) * 1000


def stopped(pid: int) -> None:
    """Wait until a process is stopped and off its CPU: its state is "T" a little earlier."""
    running = Path(f"/proc/{pid}/syscall")
    assert until(lambda: state(pid) == "T" and running.read_text() != "running\n"), pid


def events_until(attached: AttachedPrograms, last: Callable[[BpfEvent], bool]) -> list[BpfEvent]:
    """Collect events until one of them is the `last`."""
    found: list[BpfEvent] = []
    end = time.monotonic() + SOON
    while not any(map(last, found)):
        assert time.monotonic() < end, found
        found += attached.poll(0.05)
    return found


@contextlib.contextmanager
def ending(pid: int) -> Iterator[int]:
    """Kill and reap a process at the end, if it is still there."""
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


# ---- counters ------------------------------------------------------------------------------


@case
def a_process_is_counted_as_wait4_does(attached: AttachedPrograms, box: Cgroup) -> None:
    slot = attached.add(inode(box))
    _, status, usage = os.wait4(python(box, WORK), 0)
    assert status == 0
    found = settled(attached, slot)
    assert near(number(found.cpu_ns), (usage.ru_utime + usage.ru_stime) * 1e9)
    assert found.minor_faults == usage.ru_minflt
    assert found.major_faults == usage.ru_majflt
    # One fork makes it, one exec runs Python in it.
    assert (found.processes_started, found.programs_executed, found.exits) == (1, 1, 1)
    assert found.escapes == found.events_lost == 0


@case
def threads_and_children_together_are_counted_as_cpu_stat_does(
    attached: AttachedPrograms, box: Cgroup
) -> None:
    slot = attached.add(inode(box))
    code = f"""
import os, threading
work = lambda: exec({WORK!r}, {{}})
threads = [threading.Thread(target=work) for _ in range(3)]
for each in threads: each.start()
for _ in range(3):
    if os.fork() == 0: work(); os._exit(0)
for each in threads: each.join()
for _ in range(3): os.wait()
"""
    assert done(python(box, code)) == 0
    found = settled(attached, slot)
    assert near(number(found.cpu_ns), cpu_stat(box))
    assert (found.processes_started, found.programs_executed, found.exits) == (4, 1, 4)


@case
def living_processes_are_counted_when_asked_for(attached: AttachedPrograms, box: Cgroup) -> None:
    slot = attached.add(inode(box))
    stop = f"{WORK}\nimport os, signal\nos.kill(os.getpid(), signal.SIGSTOP)"
    with ending(python(box, stop)) as pid:
        stopped(pid)
        found = counters(attached, slot)
        assert near(number(found.cpu_ns), cpu_stat(box))
        ran, waited, _ = map(int, Path(f"/proc/{pid}/schedstat").read_text().split())
        assert (found.cpu_ns, found.run_delay_ns) == (ran, waited)
        assert found.exits == 0
        again = counters(attached, slot)
        assert again == found  # counted once


@case
def waiting_for_a_cpu_is_counted(attached: AttachedPrograms, box: Cgroup) -> None:
    """Two that share one CPU wait for each other half of the time."""
    slot = attached.add(inode(box))
    code = f"""
import os, signal
os.sched_setaffinity(0, [0])
exec({WORK!r}, {{}})
os.kill(os.getpid(), signal.SIGSTOP)
"""
    with ending(python(box, code)) as one, ending(python(box, code)) as other:
        stopped(one)
        stopped(other)
        truth = sum(
            int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) for pid in (one, other)
        )
        found = counters(attached, slot)
    assert truth > 0
    assert found.run_delay_ns == truth


@case
def the_time_before_a_process_joined_is_not_counted(
    attached: AttachedPrograms, box: Cgroup
) -> None:
    """Nor that of its other threads, which move with it."""
    slot = attached.add(inode(box))
    code = f"""
import signal, sys, threading
def work(): exec({WORK.replace("0.25", "2")!r}, {{}})
def idle(): work(); ready.release(); signal.pause()
ready = threading.Semaphore(0)
thread = threading.Thread(target=idle, daemon=True); thread.start()
work(); ready.acquire(); print("ready", flush=True); sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process, ending(process.pid):
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        box.join(process.pid)
        process.communicate()
    found = settled(attached, slot)
    assert near(number(found.cpu_ns), cpu_stat(box), at_least=20e6)
    assert number(found.cpu_ns) < 0.5e9  # each of the threads has used about a second before
    assert (found.processes_started, found.exits) == (0, 1)


@case
def cgroups_below_belong_to_the_call(attached: AttachedPrograms, box: Cgroup) -> None:
    """A cgroup that is made later by itself, one that was there by `add_child`."""
    there = box.child("there")
    slot = attached.add(inode(box))
    attached.add_child(slot, inode(there))
    deep = there.child("deep")
    for cgroup in (there, deep, box.child("later")):
        assert done(born_in(cgroup, "/bin/true")) == 0
    found = counters(attached, slot)
    assert (found.processes_started, found.programs_executed, found.exits) == (3, 3, 3)


@case
def calls_are_counted_apart(attached: AttachedPrograms, box: Cgroup) -> None:
    """Also where one is inside the other: processes of the inner call count for it alone."""
    inner, beside = box.child("inner"), box.child("beside")
    outer_slot, inner_slot = attached.add(inode(box)), attached.add(inode(inner))
    assert done(born_in(inner, "/bin/true")) == 0
    assert done(born_in(beside, "/bin/true")) == 0
    assert counters(attached, inner_slot).processes_started == 1
    assert counters(attached, outer_slot).processes_started == 0


@case
def a_call_that_is_over_is_counted_no_more(attached: AttachedPrograms, box: Cgroup) -> None:
    """Processes that it left do not count for a later call in its place either."""
    slot = attached.add(inode(box))
    with ending(python(box, f"import time; print(flush=True); time.sleep(1)\n{WORK}")) as pid:
        attached.remove(slot)
        assert attached.read(slot) is None
        attached.remove(slot)
        successor = attached.add(inode(box), slot_hint=slot + 4096)
        assert successor != slot
        attached.remove(successor)
        unrelated = attached.add(inode(box.child("other")), slot_hint=slot + 2 * 4096)
        assert done(pid) == 0
        time.sleep(0.2)
        found = counters(attached, unrelated)
        assert found.cpu_ns == found.exits == 0


@case
def a_call_is_counted_before_the_holder_adopts_it(attached: AttachedPrograms, box: Cgroup) -> None:
    announcer = Announcer(attached.reserve(1), attached.counters_fd, os.dup(attached.cgroups_fd))
    with contextlib.closing(announcer):
        slot = announcer.add(inode(box))
        assert slot is not None
        assert announcer.add(inode(box.child("more"))) is None
        assert done(born_in(box, "/bin/true")) == 0
        attached.adopt(slot, inode(box))
        assert counters(attached, slot).processes_started == 1
        attached.remove(slot)
        announcer.give_back(slot)
        following = announcer.add(inode(box))
        assert following not in (None, slot)
        assert attached.read(slot) is None


@case
def another_process_can_read_the_counters(attached: AttachedPrograms, box: Cgroup) -> None:
    slot = attached.add(inode(box))
    assert done(born_in(box, "/bin/true")) == 0
    settled(attached, slot)
    fd = os.dup(attached.counters_fd)
    code = f"""
from agentcgroup.bpf import CountersView
view = CountersView({fd}, {dict(attached.programs)!r}, {attached.features})
print(view.read({slot}))
print(view.read({slot + 1}))
"""
    read = subprocess.run(
        [sys.executable, "-c", code], pass_fds=[fd], capture_output=True, text=True, check=True
    )
    os.close(fd)
    assert read.stdout.splitlines() == [str(attached.read(slot)), "None"]
    view = CountersView(attached.counters_fd, attached.programs, attached.features)
    assert view.read(slot) == attached.read(slot)
    view.close()


# ---- events --------------------------------------------------------------------------------


@case
def a_known_tree_of_processes_is_reported_as_it_was(
    attached: AttachedPrograms, box: Cgroup
) -> None:
    slot = attached.add(inode(box))
    pid = born_in(box, "/bin/sh", "-c", "/bin/true; /bin/false; sh -c 'kill -9 $$'; exit 3")
    assert done(pid) == 3
    events = events_until(attached, lambda event: event.kind == "exit" and event.pid == pid)
    reported = [
        (e.kind, e.filename and os.path.basename(e.filename)) for e in events if e.pid != pid
    ]
    life = [("fork", None), ("exec", "true"), ("exit", None)]
    assert reported[:3] == life
    assert [name for _, name in reported if name] == ["true", "false", "sh"]
    children = [event for event in events if event.pid != pid]
    assert {event.ppid for event in children} == {pid}
    ends = [(e.exit_code, e.signal) for e in events if e.kind == "exit"]
    assert ends == [(0, None), (1, None), (None, signal.SIGKILL), (3, None)]
    assert {event.slot for event in events} == {slot}
    assert {event.cgroup_id for event in events} == {inode(box)}
    assert [event.time_ns for event in events] == sorted(event.time_ns for event in events)
    last = events[-1]
    assert (last.comm, last.tid, last.ppid) == ("sh", pid, os.getpid())
    assert 0 <= time.monotonic_ns() - last.time_ns < 60e9


@case
def a_process_of_several_threads_exits_once(attached: AttachedPrograms, box: Cgroup) -> None:
    """With the status of wait(2), whichever thread ended it."""
    slot = attached.add(inode(box))
    code = (
        "import os, threading; threading.Thread(target=lambda: os._exit(7)).start(); os.read(0, 1)"
    )
    pid = python(box, f"import os; r, w = os.pipe(); os.dup2(r, 0)\n{code}")
    assert done(pid) == 7
    events = events_until(attached, lambda event: event.kind == "exit")
    assert [event.exit_code for event in events if event.kind == "exit"] == [7]
    assert counters(attached, slot).exits == 1


# ---- escapes ---------------------------------------------------------------------------------


@case
def a_member_that_moves_away_is_reported_and_stays_a_member(
    attached: AttachedPrograms, box: Cgroup
) -> None:
    inside, outside = box.child("inside"), box.child("outside")
    slot = attached.add(inode(inside))
    code = f"""
import os, signal
open({outside.path + "/cgroup.procs"!r}, "w").write("0")
{WORK}
os.kill(os.getpid(), signal.SIGSTOP)
"""
    with ending(python(inside, code)) as pid:
        event = events_until(attached, lambda event: event.kind == "leave")[-1]
        assert (event.slot, event.pid, event.by, event.to_slot) == (slot, pid, pid, None)
        assert event.cgroup_id == inode(outside)
        stopped(pid)
        assert near(number(counters(attached, slot).cpu_ns), cpu_stat(inside) + cpu_stat(outside))
        inside.join(pid)
        event = events_until(attached, lambda event: event.kind == "attach")[-1]
        assert (event.slot, event.pid, event.by) == (slot, pid, os.getpid())
        os.kill(pid, signal.SIGCONT)
        assert done(pid) == 0
    found = settled(attached, slot)
    assert near(number(found.cpu_ns), cpu_stat(inside) + cpu_stat(outside))
    assert (found.processes_started, found.exits, found.escapes) == (1, 1, 0)


@case
def a_member_that_moves_to_another_call_is_reported(
    attached: AttachedPrograms, box: Cgroup
) -> None:
    mine, theirs = box.child("mine"), box.child("theirs")
    slot, other = attached.add(inode(mine)), attached.add(inode(theirs))
    code = f'open({theirs.path + "/cgroup.procs"!r}, "w").write("0")\n{WORK}'
    pid = python(mine, WORK + code)
    assert done(pid) == 0
    event = next(event for event in attached.poll() if event.kind == "leave")
    assert (event.slot, event.to_slot, event.by) == (slot, other, pid)
    settled(attached, slot)
    assert near(number(counters(attached, slot).cpu_ns), cpu_stat(mine), 0.02)
    assert near(number(counters(attached, other).cpu_ns), cpu_stat(theirs), 0.02)


@contextlib.contextmanager
def escaping(attached: AttachedPrograms, slot: int) -> Iterator[BpfEvent]:
    """Start a process by libc, as a C extension does, in a thread that works for a call.

    The thread waits until its child executes a program.
    """
    child = ctypes.c_int()

    def body() -> None:
        tid = threading.get_native_id()
        attached.add_thread(slot, tid)
        words = [b"/bin/sh", b"-c", b"sh -c 'exit 5'; exit $?", None]
        argv = (ctypes.c_char_p * len(words))(*words)
        environment = (ctypes.c_char_p * 1)(None)
        libc = ctypes.CDLL(None)
        assert libc.posix_spawn(ctypes.byref(child), words[0], None, None, argv, environment) == 0
        attached.remove_thread(tid)

    thread = threading.Thread(target=body)
    thread.start()
    event = next_escape(attached)
    with ending(event.pid):
        assert (event.slot, event.ppid) == (slot, os.getpid())
        yield event
        thread.join()
        assert child.value == event.pid
        assert done(child.value) == 5


def next_escape(attached: AttachedPrograms) -> BpfEvent:
    """Wait for an escape, and until its process is stopped."""
    event = events_until(attached, lambda event: event.kind == "escape")[-1]
    assert event.stopped
    stopped(event.pid)
    return event


@stopping_case
def a_child_born_outside_is_stopped_until_it_is_moved_in(
    attached: AttachedPrograms, box: Cgroup
) -> None:
    """Its own first child is born inside then: it has run nothing outside."""
    slot = attached.add(inode(box))
    for _ in range(20):
        with escaping(attached, slot) as event:
            box.join(event.pid)
            os.kill(event.pid, signal.SIGCONT)
    found = settled(attached, slot)
    assert (found.escapes, found.processes_started, found.exits) == (20, 40, 40)
    assert found.programs_executed == 40
    assert "escape" not in [event.kind for event in attached.poll()]


@stopping_case
def a_grandchild_born_outside_is_reported_too(attached: AttachedPrograms, box: Cgroup) -> None:
    """Where the reader resumes the child without moving it in."""
    slot = attached.add(inode(box))
    with escaping(attached, slot) as child:
        os.kill(child.pid, signal.SIGCONT)
        grandchild = next_escape(attached)
        assert (grandchild.ppid, grandchild.slot) == (child.pid, slot)
        os.kill(grandchild.pid, signal.SIGCONT)
    assert counters(attached, slot).escapes == 2


@case
def a_fork_of_a_thread_that_works_for_no_call_is_not_reported(
    attached: AttachedPrograms, box: Cgroup
) -> None:
    slot = attached.add(inode(box))
    attached.add_thread(slot, threading.get_native_id())
    attached.remove_thread(threading.get_native_id())
    subprocess.run(["/bin/true"], check=True)
    assert attached.poll() == []
    assert counters(attached, slot).processes_started == 0


@case
def a_fork_of_a_thread_whose_call_is_over_is_not_reported(
    attached: AttachedPrograms, box: Cgroup
) -> None:
    slot = attached.add(inode(box))
    attached.add_thread(slot, threading.get_native_id())
    attached.remove(slot)
    subprocess.run(["/bin/true"], check=True)
    assert attached.poll() == []


# ---- in full detail, with watch_network() --------------------------------------------------


#: socket(7), asm-generic/socket.h.
_SO_RCVBUFFORCE = 33


def packets_case(attached: AttachedPrograms, box: Cgroup) -> None:
    """Packets count for the call that owns the socket."""
    sender, receiver = box.child("sender"), box.child("receiver")
    slots = [attached.add(inode(cgroup)) for cgroup in (sender, receiver)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # All packets fit into the buffer: a receiver that starts late loses none.
    receive = f"""
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, {_SO_RCVBUFFORCE}, 1 << 20)
s.bind(("127.0.0.1", {port}))
for _ in range(100): s.recv(4096)
"""
    send = f"""
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(100): s.sendto(bytes(1000), ("127.0.0.1", {port}))
"""
    pid = python(receiver, receive)
    events_until(attached, lambda event: event.kind == "exec" and event.pid == pid)
    ports = Path("/proc/net/udp")
    while f":{port:04X} " not in ports.read_text():
        assert Path(f"/proc/{pid}").exists()
    assert done(python(sender, send)) == 0
    assert done(pid) == 0
    sent, received = (counters(attached, slot) for slot in slots)
    size = 100 * (1000 + 8 + 20)
    assert (sent.net_tx_bytes, sent.net_rx_bytes) == (size, 0)
    assert (received.net_tx_bytes, received.net_rx_bytes) == (0, size)
