"""The memory that the programs and their reader share: monitor.h in Python (a test compares)."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal, get_args

__all__ = ["COUNTERS", "BpfEvent", "Counters", "Kind"]

MAX_CALLS: Final = 4096
RING_BYTES: Final = 1 << 20
WAITS: Final = 24
HAS_RUN_DELAY: Final = 1
HAS_IO_BYTES: Final = 2
HAS_SIGNAL_TASK: Final = 4

#: enum counter, in its order.
COUNTERS: Final = (
    "processes_started",
    "programs_executed",
    "exits",
    "escapes",
    "events_lost",
    "cpu_ns",
    "run_delay_ns",
    "minor_faults",
    "major_faults",
    "io_read_bytes",
    "io_write_bytes",
    "memory_charged_bytes",
    "reclaim_ns",
    "memory_high_ns",
    "oom_kills",
    "files_opened",
    "block_read_bytes",
    "block_write_bytes",
    "net_rx_bytes",
    "net_tx_bytes",
)

#: struct call: its slot, enum counter, the waits.
CALL: Final = struct.Struct(f"=Q{len(COUNTERS)}Q{WAITS}Q")
#: Its first member.
SLOT: Final = struct.Struct("=Q")
CALLS_BYTES: Final = MAX_CALLS * CALL.size
#: struct settings.
SETTINGS: Final = struct.Struct("=IIIII")

Kind = Literal["fork", "exec", "exit", "oom", "escape", "leave", "attach"]
_KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
_EVENT: Final = struct.Struct("=QQIIIIIIiI16s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What all processes of a call together have used so far.

    A counter is None where no program fills it: the kernel or this process' rights do not allow
    the program, or the program runs in full detail only. None is not zero.

    Attributes:
        processes_started: processes born into the call, threads not counted.
        programs_executed: successful execve(2).
        exits: processes that have ended.
        escapes: processes born outside the call's cgroup although their parent is in the call.
        events_lost: events for which the ring buffer had no room.
        cpu_ns: CPU time, nanoseconds; of living processes up to the last `read(living=True)`.
        run_delay_ns: time ready to run and waiting for a CPU, nanoseconds; likewise.
        minor_faults: page faults without I/O; likewise.
        major_faults: page faults with I/O; likewise.
        io_read_bytes: what its threads caused to be fetched from storage (proc(5), io); likewise.
        io_write_bytes: what its threads dirtied in the page cache (proc(5), io); likewise.
        memory_charged_bytes: sum of all memory charges, freed memory not subtracted; charges to
            the app's threads that work for the call included.
        reclaim_ns: time its threads spent freeing memory before they got some, nanoseconds.
        memory_high_ns: time held back for being above memory.high, nanoseconds; reclaim included.
        oom_kills: processes that the OOM killer killed.
        files_opened: calls of open(2) that found the file, successful or denied.
        block_read_bytes: bytes read from block devices.
        block_write_bytes: bytes written to block devices, counted at the write-back.
        net_rx_bytes: bytes of IP packets that its sockets received, IP headers included.
        net_tx_bytes: bytes of IP packets that its sockets sent, IP headers included.
        run_queue_waits: numbers of waits for a CPU that took less than 1, 2, 4, ... us; the last
            number has all above 4 s.
    """

    processes_started: int | None
    programs_executed: int | None
    exits: int | None
    escapes: int | None
    events_lost: int | None
    cpu_ns: int | None
    run_delay_ns: int | None
    minor_faults: int | None
    major_faults: int | None
    io_read_bytes: int | None
    io_write_bytes: int | None
    memory_charged_bytes: int | None
    reclaim_ns: int | None
    memory_high_ns: int | None
    oom_kills: int | None
    files_opened: int | None
    block_read_bytes: int | None
    block_write_bytes: int | None
    net_rx_bytes: int | None
    net_tx_bytes: int | None
    run_queue_waits: tuple[int, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BpfEvent:
    """Something that happened to a process of a call.

    Process ids are those of this process's PID namespace, 0 for processes outside of it.

    Attributes:
        kind: "fork" (born in the call), "exec", "exit", "oom" (the kernel kills it for memory),
            "escape" (born outside the call's cgroup), "leave" (moved away from it) or "attach"
            (moved into it, for the first time or again).
        slot: that of the call.
        time_ns: CLOCK_MONOTONIC.
        cgroup_id: id of the cgroup that the process is in now.
        pid: the process.
        tid: the thread of the process that caused the event.
        ppid: its parent.
        comm: name of the thread, at most 15 bytes.
        by: the process that has moved it ("leave", "attach").
        to_slot: slot of the call that it has moved to, None for no call ("leave").
        filename: path of the program, cut at 127 bytes ("exec").
        exit_code: the exit code, None when a signal ended the process ("exit").
        signal: the signal that ended the process, else None ("exit").
        stopped: the process was stopped at birth and waits for SIGCONT ("escape").
    """

    kind: Kind
    slot: int
    time_ns: int
    cgroup_id: int
    pid: int
    tid: int
    ppid: int
    comm: str
    by: int | None = None
    to_slot: int | None = None
    filename: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    stopped: bool = False


def begin_call(calls: mmap.mmap, slot: int) -> None:
    """Give a slot its place in the array `calls`, with all counters zero."""
    at = slot % MAX_CALLS * CALL.size
    calls[at : at + CALL.size] = bytes(CALL.size)
    SLOT.pack_into(calls, at, slot)


def end_call(calls: mmap.mmap, slot: int) -> None:
    """Stop every counter of a slot."""
    SLOT.pack_into(calls, slot % MAX_CALLS * CALL.size, 0)


def decode_call(calls: mmap.mmap, slot: int, absent: Collection[str]) -> Counters | None:
    """Read the counters of a slot from the array `calls`, None if the slot is not in use."""
    owner, *numbers = CALL.unpack_from(calls, slot % MAX_CALLS * CALL.size)
    if not slot or owner != slot:
        return None
    counts: dict[str, int | None] = dict(zip(COUNTERS, numbers, strict=False))
    counts.update(dict.fromkeys(counts.keys() & absent))
    waits = tuple(numbers[len(COUNTERS) :])
    return Counters(**counts, run_queue_waits=None if "run_queue_waits" in absent else waits)


def decode_event(data: bytes) -> BpfEvent:
    """Read a struct event, or the longer struct exec_event."""
    fields = _EVENT.unpack_from(data)
    time_ns, cgroup_id, number, slot, pid, tid, ppid, by, status, stopped, comm = fields
    kind = _KINDS[number]
    ended = kind == "exit"
    return BpfEvent(
        kind=kind,
        slot=slot,
        time_ns=time_ns,
        cgroup_id=cgroup_id,
        pid=pid,
        tid=tid,
        ppid=ppid,
        comm=_text(comm),
        by=by if kind in ("leave", "attach") else None,
        # The field is unsigned here; for an exit it is the signed status.
        to_slot=(status % (1 << 32) or None) if kind == "leave" else None,
        filename=_text(data[_EVENT.size :]) if kind == "exec" else None,
        exit_code=os.WEXITSTATUS(status) if ended and os.WIFEXITED(status) else None,
        signal=os.WTERMSIG(status) if ended and os.WIFSIGNALED(status) else None,
        stopped=bool(stopped),
    )


def _text(field: bytes) -> str:
    """Read a C string; bytes that are not UTF-8 become surrogates."""
    return field.split(b"\0", 1)[0].decode(errors="surrogateescape")
