"""The record of a finished call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

__all__ = ["CallRecord", "Isolated", "Outcome", "Program"]

#: How a call ended. ``ok``: the tool returned. ``error``: the tool raised. ``oom``: the kernel
#: killed the call for memory. ``timeout``: its deadline passed. ``killed``: another limit stopped
#: it, or its worker process died from what the tool did. ``cancelled``: the framework cancelled it.
#: ``rejected``: it never started.
Outcome = Literal["ok", "error", "oom", "timeout", "killed", "cancelled", "rejected"]

#: Where the tool's own code ran: in the app's process, or in a worker process in the call's cgroup.
Isolated = Literal["inline", "process"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    r"""One program that a process of a call executed.

    Attributes:
        program: the path that was executed, as the kernel reports it; the process's name where the
            path is not known; "?" where the process ended before either was read. The tool
            chooses it: treat it as hostile. Bytes that are not UTF-8 are written as ``\xNN``.
        pid: the process's id.
        exit_code: the process's exit status; None when a signal ended it, when it executed another
            program, or while it runs.
        signal: the number of the signal that ended the process, else None.
    """

    program: str
    pid: int
    exit_code: int | None = None
    signal: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRecord:
    """The identity of one finished call, its times, its outcome, its usage and its limits.

    A figure that is None was not measured: the call started no process and so had no cgroup, or
    the kernel or the machine has no such counter. None does not mean zero.

    Attributes:
        id: unique over runs and machines.
        parent_id: id of the call inside which this one ran, None at the top.
        framework: ``langchain``, ``autogen``, ``crewai``, or ``python`` for `agentcgroup.call`.
        agent: the agent's name as the framework gives it, unchanged; None when it has none.
        tool: the tool's name as the framework gives it, unchanged (``gen_ai.tool.name``).
        tool_call_id: the model's id of the call (``gen_ai.tool.call.id``); not always unique.
        started_at: Unix time in seconds.
        duration_s: wall-clock seconds from the call's start to its end.
        outcome: how the call ended, see `Outcome`.
        reason: the limit that stopped the call, or another remarkable fact: ``memory_max``,
            ``agent.memory_max``, ``run.memory_max``, ``system`` (the machine itself ran out of
            memory), ``timeout``, ``overdue`` (the tool ran inside the program past its timeout,
            which could not end it; what it returned or raised stands), ``pids_max``,
            ``cancelled``, ``escape`` (a process left its cgroup, see the config table
            ``[monitor]``), ``leftovers`` (processes that outlived the tool were killed;
            maintenance that goes on, such as ``git gc --auto``, is none),
            ``crashed: SIGSEGV`` or ``exited: 3`` (how its worker process ended),
            ``malformed: ...`` (its worker process sent what is no result),
            ``uncontained: ...`` (it could have no cgroup, so that no process of it started),
            ``unshippable: ...`` (an object that could not be sent to a worker or back: the call
            was rejected, or ran inline); else None.
        memory_peak_bytes: highest memory charge of its cgroup (memory.peak, Linux 5.19).
        cpu_usage_s: CPU seconds of all its processes (cpu.stat usage_usec).
        pids_peak: highest number of tasks at one time (pids.peak, Linux 6.1).
        io_read_bytes: bytes read from block devices (io.stat).
        io_write_bytes: bytes written to block devices (io.stat).
        throttled_s: seconds for which cpu_max throttled it (cpu.stat throttled_usec).
        oom_kills: processes that the OOM killer killed, as the cgroup counts them.
        memory_high_events: times that the kernel throttled its processes for being above
            memory_high (memory.events high).
        background: for a timeout, the names of the processes that were left when the time was over,
            where all of them were in the background: what had started them was done. Else None.
        worker_start_s: seconds until the tool's own code began in its worker: until the worker was
            there and had imported the tool's modules. Up to 60 s of them do not count against the
            timeout. None for a tool that ran inline.
        monitor: the monitor's source for the next figures, ``libbpf``, ``procs`` or ``bcc``; None
            when there was none, when it was ready only after the call had begun, or when the call's
            worker served other calls too (``reuse``).
        processes_started: processes, not threads, that began in the call (sched_process_fork).
        programs: the first 64 programs that they executed (sched_process_exec,
            sched_process_exit).
        programs_left_out: number of programs beyond these.
        escapes: processes that were found outside the call's cgroup and moved into it.
        run_delay_s: seconds for which its threads were runnable and had no CPU
            (sched_info.run_delay).
        memory_charged_bytes: all memory that was charged to it, freed since or not
            (try_charge_memcg).
        reclaim_s: seconds that its threads spent in reclaim for their own allocations
            (mm_vmscan_memcg_reclaim, mm_vmscan_direct_reclaim).
        memory_high_s: seconds for which its threads were throttled above memory_high
            (mem_cgroup_handle_over_high).
        files_opened: number of files opened (security_file_open).
        net_rx_bytes: bytes of IP packets that its sockets received (cgroup_skb).
        net_tx_bytes: bytes of IP packets that its sockets sent (cgroup_skb).
        limits: the limits that its policy set, kernel names with '_' for '.', in bytes and seconds.
        cgroup: path of its cgroup's directory, which is removed after the call; None when it had
            none.
        thread_cpu_s: estimate for a sync tool that ran inline: CPU seconds of its thread, exact to
            a timer tick, without other threads and child processes.
        memory_growth_bytes: estimate for such a tool: growth of the peak of the process's resident
            memory during the call, whichever thread caused it (getrusage's ru_maxrss); 0 below an
            earlier peak.
        thread_memory_charged_bytes: for such a tool, exact: memory charged to the threads that
            worked for it, freed since or not (try_charge_memcg); only ``libbpf`` with
            ``detail = "full"`` measures it, and the kernel charges none in the root cgroup.
        isolation: where the tool's own code ran: ``inline``, or ``process`` for a worker.
        used_helpers: whether it used a process pool or manager that an earlier call or the app has
            made, or made one that the app still holds. Such processes are in the agent's cgroup,
            and what they use counts there.
        unmet: the limits that did not hold, because the kernel refused the value or lacks the file:
            keys of its own, and those of its agent and of the run as "agent.io_max".
    """

    id: str
    parent_id: str | None
    framework: str
    agent: str | None
    tool: str
    tool_call_id: str | None
    started_at: float
    duration_s: float
    outcome: Outcome
    reason: str | None
    memory_peak_bytes: int | None = None
    cpu_usage_s: float | None = None
    pids_peak: int | None = None
    io_read_bytes: int | None = None
    io_write_bytes: int | None = None
    throttled_s: float | None = None
    oom_kills: int | None = None
    memory_high_events: int | None = None
    background: tuple[str, ...] | None = None
    worker_start_s: float | None = None
    monitor: str | None = None
    processes_started: int | None = None
    programs: tuple[Program, ...] | None = None
    programs_left_out: int | None = None
    escapes: int | None = None
    run_delay_s: float | None = None
    memory_charged_bytes: int | None = None
    reclaim_s: float | None = None
    memory_high_s: float | None = None
    files_opened: int | None = None
    net_rx_bytes: int | None = None
    net_tx_bytes: int | None = None
    limits: Mapping[str, Any]
    cgroup: str | None = None
    thread_cpu_s: float | None = None
    memory_growth_bytes: int | None = None
    thread_memory_charged_bytes: int | None = None
    isolation: Isolated = "inline"
    used_helpers: bool = False
    unmet: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain data, ready for JSON."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple):
        return [asdict(one) if isinstance(one, Program) else one for one in value]
    return value
