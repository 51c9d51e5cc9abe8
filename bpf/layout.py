"""What the programs and their reader share: monitor.h in Python. A test holds the two together."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal, get_args

__all__ = ["COUNTERS", "Counters", "Event", "Kind"]

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
    """What a call, all its processes together, has used so far.

    Each is None where no program fills it: the kernel or our rights do not allow it, or it is
    not in the detail that was asked for. That is not zero.

    Attributes:
        processes_started: processes born into the call, threads not counted.
        programs_executed: successful execve(2).
        exits: processes that have ended.
        escapes: processes born outside the call's cgroup, which were its parent's to be in.
        events_lost: events that found the ring buffer full.
        cpu_ns: CPU time, nanoseconds. Of living processes as of the last `read(living=True)`.
        run_delay_ns: time ready to run and waiting for a CPU, nanoseconds; likewise.
        minor_faults: page faults without I/O; likewise.
        major_faults: page faults with I/O; likewise.
        io_read_bytes: what its threads caused to be fetched from storage (proc(5), io); likewise.
        io_write_bytes: what its threads dirtied in the page cache (proc(5), io); likewise.
        memory_charged_bytes: all memory ever charged, without what was freed, inline threads'
            included.
        reclaim_ns: time its threads spent freeing memory before they got some, nanoseconds.
        memory_high_ns: time held back for being above memory.high, nanoseconds; reclaim included.
        oom_kills: processes killed for want of memory.
        files_opened: successful and denied open(2) that found the file.
        block_read_bytes: bytes read from block devices.
        block_write_bytes: bytes written to block devices, when they were written back.
        net_rx_bytes: bytes of IP packets that its sockets received, headers included.
        net_tx_bytes: bytes of IP packets that its sockets sent, headers included.
        run_queue_waits: how many waits for a CPU took less than 1, 2, 4, ... us; the last takes
            all above 4 s.
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
class Event:
    """Something that happened to a process of a call.

    Process ids are those of this process's PID namespace, 0 for what cannot be seen from it.

    Attributes:
        kind: "fork" (born in the call), "exec", "exit", "oom" (the kernel kills it for memory),
            "escape" (born outside the call's cgroup), "leave" (moved away from it) or "attach"
            (moved into it, for the first time or again).
        slot: the call.
        time_ns: CLOCK_MONOTONIC.
        cgroup_id: where the process is now.
        pid: the process.
        tid: its thread that did it.
        ppid: its parent.
        comm: its name, at most 15 bytes.
        by: who has moved it ("leave", "attach").
        to_slot: the call where it is now, None for none ("leave").
        filename: what it executes, cut at 127 bytes ("exec").
        exit_code: as subprocess tells it, None when a signal ended it ("exit").
        signal: the signal that ended it, else None ("exit").
        stopped: it was stopped at birth and waits for SIGCONT ("escape").
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
    """Give a place in the array `calls` to a slot, with all its counters at zero."""
    at = slot % MAX_CALLS * CALL.size
    calls[at : at + CALL.size] = bytes(CALL.size)
    SLOT.pack_into(calls, at, slot)


def end_call(calls: mmap.mmap, slot: int) -> None:
    """Have nothing count for a slot any more."""
    SLOT.pack_into(calls, slot % MAX_CALLS * CALL.size, 0)


def decode_call(calls: mmap.mmap, slot: int, absent: Collection[str]) -> Counters | None:
    """Read the counters of a slot from the array `calls`, None if it is another's or nobody's."""
    owner, *numbers = CALL.unpack_from(calls, slot % MAX_CALLS * CALL.size)
    if not slot or owner != slot:
        return None
    counts: dict[str, int | None] = dict(zip(COUNTERS, numbers, strict=False))
    counts.update(dict.fromkeys(counts.keys() & absent))
    waits = tuple(numbers[len(COUNTERS) :])
    return Counters(**counts, run_queue_waits=None if "run_queue_waits" in absent else waits)


def decode_event(data: bytes) -> Event:
    """Read a struct event, or the longer struct exec_event."""
    fields = _EVENT.unpack_from(data)
    time_ns, cgroup_id, number, slot, pid, tid, ppid, by, status, stopped, comm = fields
    kind = _KINDS[number]
    ended = kind == "exit"
    return Event(
        kind=kind,
        slot=slot,
        time_ns=time_ns,
        cgroup_id=cgroup_id,
        pid=pid,
        tid=tid,
        ppid=ppid,
        comm=_text(comm),
        by=by if kind in ("leave", "attach") else None,
        # A u32 in the place of the exit's signed status.
        to_slot=(status % (1 << 32) or None) if kind == "leave" else None,
        filename=_text(data[_EVENT.size :]) if kind == "exec" else None,
        exit_code=os.WEXITSTATUS(status) if ended and os.WIFEXITED(status) else None,
        signal=os.WTERMSIG(status) if ended and os.WIFSIGNALED(status) else None,
        stopped=bool(stopped),
    )


def _text(field: bytes) -> str:
    """Read a C string; names are bytes that need not be UTF-8."""
    return field.split(b"\0", 1)[0].decode(errors="surrogateescape")
