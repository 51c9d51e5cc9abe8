"""What a finished call was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

__all__ = ["CallRecord", "Isolated", "Outcome", "Program"]

#: How a call ended. ``error``: the tool raised. ``oom``: the kernel killed it for memory.
#: ``timeout``: its time was over. ``killed``: stopped for another limit, or its worker process
#: died of what the tool did. ``cancelled``: the framework gave it up. ``rejected``: it never
#: started.
Outcome = Literal["ok", "error", "oom", "timeout", "killed", "cancelled", "rejected"]

#: Where the tool's own code ran: in the agent's process, or in a worker process in the call's
#: cgroup.
Isolated = Literal["inline", "process"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    r"""One program that a process of a call executed.

    Attributes:
        program: its path as the kernel has it; the process's name where that is all there is left;
            "?" where the process was gone before it could be looked at. Whoever runs it chooses it.
            Bytes that are no UTF-8 are written as ``\xNN``.
        pid: of the process.
        exit_code: with which it ended; None when a signal ended it, when it executed another
            program, or was still running.
        signal: by which it was ended, None else.
    """

    program: str
    pid: int
    exit_code: int | None = None
    signal: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRecord:
    """One finished call: who, how long, how it ended, what it used, what limits it had.

    A figure that is None was not measured: the call started no process and so had no cgroup, or
    this kernel or machine has no such counter. Absent is not zero.

    Attributes:
        id: unique over runs and machines.
        parent_id: id of the call this one ran inside, None at the top.
        framework: ``langchain``, ``autogen``, ``crewai``, or ``python`` for `agentcgroup.call`.
        agent: the agent's name as the framework gave it, unchanged; None when it has none.
        tool: the tool's name as the framework gave it, unchanged (``gen_ai.tool.name``).
        tool_call_id: the model's id of the call (``gen_ai.tool.call.id``); not always unique.
        started_at: Unix time in seconds.
        duration_s: wall-clock seconds from the seam's entry to its end.
        outcome: how it ended.
        reason: what stopped it or is worth knowing: ``memory_max``, ``agent.memory_max``,
            ``run.memory_max``, ``system`` (the machine itself ran out of memory), ``timeout``,
            ``pids_max``, ``cancelled``, ``escape`` (a process left its cgroup, see
            `settings.MonitorTable`), ``leftovers`` (processes that outlived the tool were ended),
            ``crashed: SIGSEGV`` or ``exited: 3`` (its worker process did, by that signal or
            with that status), ``unshippable: ...`` (what could not be sent to a worker or back: the
            call was rejected, or ran inline), or None.
        memory_peak_bytes: highest charge of its cgroup (memory.peak, Linux 5.19).
        cpu_usage_s: CPU seconds of all its processes (cpu.stat usage_usec).
        pids_peak: most tasks at once (pids.peak, Linux 6.1).
        io_read_bytes: bytes read from block devices (io.stat).
        io_write_bytes: bytes written to block devices (io.stat).
        throttled_s: seconds it was held back by cpu_max (cpu.stat throttled_usec).
        oom_kills: processes the OOM killer counted, 0 where none and measured.
        monitor: which source filled what is below, ``libbpf``, ``procs`` or ``bcc``; None when
            there was none, it came too late to see all of the call, or the call's worker served
            others too (``reuse``).
        processes_started: processes, not threads, that began in it (sched_process_fork).
        programs: what these executed, the first 64 (sched_process_exec, sched_process_exit).
        programs_left_out: programs beyond those.
        escapes: processes that were found outside of its cgroup and brought in.
        run_delay_s: seconds its threads were ready to run and had no CPU (sched_info.run_delay).
        memory_charged_bytes: memory charged to it in all (try_charge_memcg), given back or not.
        reclaim_s: seconds its threads spent in freeing memory for their own allocations
            (mm_vmscan_memcg_reclaim, mm_vmscan_direct_reclaim).
        memory_high_s: seconds they were held back above memory_high (mem_cgroup_handle_over_high).
        files_opened: files it opened (security_file_open).
        net_rx_bytes: bytes of IP packets its sockets received (cgroup_skb).
        net_tx_bytes: bytes of IP packets its sockets sent (cgroup_skb).
        limits: what its policy asked for, kernel names with '_' for '.', bytes and seconds.
        cgroup: path of its cgroup's directory, gone by now; None when it had none.
        thread_cpu_s: estimate for a sync tool that ran inline: CPU seconds of its thread, give or
            take a timer tick; those of other threads and of child processes not among them.
        memory_growth_bytes: estimate for such a tool: by how much the peak of the process's
            resident memory rose meanwhile, whichever thread was to blame (getrusage's ru_maxrss);
            0 where it stayed below an earlier peak.
        thread_memory_charged_bytes: for such a tool, exactly: memory charged to the threads that
            worked for it, given back or not (try_charge_memcg); None but by ``libbpf`` in full
            detail, and for a process in the root cgroup, which is charged nothing.
        isolation: where the tool's own code ran: ``inline``, or ``process`` for a worker.
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

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain data, ready for JSON."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple):
        return [asdict(one) for one in value]
    return value
