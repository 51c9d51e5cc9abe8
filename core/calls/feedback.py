"""The sentence to the model: which limit ended the call, after how long, and what to try.

Every framework gives the model the same sentence, of at most about 60 words. An agent adapts its
next call when the model reads why the last one ended (arXiv 2602.09345, section 6).
"""

from __future__ import annotations

from agentcgroup.enforcement.deadlines import START_MOST
from agentcgroup.enforcement.verdict import UNCONTAINED
from agentcgroup.records.record import CallRecord
from agentcgroup.units import format_duration, format_size

__all__ = ["attach", "partial_output", "sentence"]

_NAME_LENGTH = 60
_OUTPUT_LENGTH = 4000
_NAMES = 5


def sentence(record: CallRecord) -> str | None:
    """Return the sentence for the model about `record`; None if no limit affected the call."""
    told = _sentence(record)
    if told is None or not record.unmet or record.outcome not in ("oom", "timeout", "killed"):
        return told
    names = ", ".join(record.unmet[:_NAMES])
    return f"{told} Limits that this machine does not take: {names}."


def _sentence(record: CallRecord) -> str | None:
    tool = _printable(record.tool)
    took = format_duration(record.duration_s)
    if record.outcome == "oom":
        return _oom(record, tool, took)
    if record.outcome == "timeout":
        return _timeout(record, tool)
    reason = record.reason or ""
    if reason.startswith("lost: "):
        return (
            f"Tool {tool} was stopped after {took}: its worker process ended because another "
            "process was killed, through no fault of its own. The same call may succeed now."
        )
    if reason.startswith("malformed: "):
        return (
            f"Tool {tool} was stopped after {took}: what its worker process sent is no result "
            f"({reason.removeprefix('malformed: ')[:200]}). The same call will end the same way: "
            "use another tool, or return less."
        )
    if reason.startswith(("crashed: ", "exited: ")):
        return (
            f"Tool {tool} was stopped after {took}: its worker process {_how(reason)}. All data "
            "that it held in memory is lost. The same call will probably end the same way: "
            "change its arguments, or use another tool."
        )
    if reason.startswith(UNCONTAINED):
        return (
            f"Tool {tool} was refused when it started its first process: its limits cannot be put "
            f"in force now ({reason.removeprefix(UNCONTAINED)[:200]}). Other arguments do not "
            "help. Try again later, or use a tool that starts no process."
        )
    if reason.startswith("unshippable: ") and record.outcome in ("rejected", "error"):
        what = reason.removeprefix("unshippable: ")
        ran = "was not run" if record.outcome == "rejected" else "has run, but gave no result"
        return (
            f"Tool {tool} {ran}: the configuration runs it in a process of its own, and this "
            f"cannot be sent between processes: {what}. Other arguments do not help; use another "
            "tool."
        )
    if record.reason == "pids_max":
        limit = str(record.limits.get("pids_max"))
        ended = "and was stopped" if record.outcome == "killed" else "so that some did not start"
        return (
            f"Tool {tool} reached its limit of {limit} processes and threads (pids_max) {ended}, "
            f"after {took}. Start fewer at once: lower the parallelism (such as -j or workers) "
            "and do not start processes in an endless loop."
        )
    if record.reason == "escape":
        return (
            f"Tool {tool} was stopped after {took}: one of its processes moved itself out of the "
            "cgroup of the call. The same call will end the same way: do the work without that."
        )
    if record.reason == "leftovers":
        return (
            f"Note: processes that tool {tool} left running in the background were ended with "
            "the call. A process that must go on has to run in the foreground of a call, or the "
            'user has to allow it (background = "keep" in the configuration).'
        )
    return None


def attach(text: str, record: CallRecord) -> str:
    """Return `text`, a tool's own result, followed by the sentence if there is one."""
    told = sentence(record)
    if told is None:
        return text
    return f"{text}\n\n{told}" if text.strip() else told


def partial_output(error: BaseException) -> str:
    """Return the last 4000 characters that a stopped tool printed, or "" if `error` has no output.

    `subprocess.TimeoutExpired` and `CalledProcessError` hold the output; a model can often continue
    from it.
    """
    parts = []
    for name in ("stdout", "stderr"):
        output = getattr(error, name, None)
        if isinstance(output, bytes):
            output = output.decode("utf-8", "replace")
        if isinstance(output, str) and output.strip():
            parts.append(output.strip())
    text = "\n".join(parts)
    return text if len(text) <= _OUTPUT_LENGTH else "..." + text[-_OUTPUT_LENGTH:]


def _timeout(record: CallRecord, tool: str) -> str:
    limit = format_duration(record.limits.get("timeout") or record.duration_s)
    if record.reason == "overdue":
        return (
            f"Note: tool {tool} took {format_duration(record.duration_s)}, longer than its time "
            f"limit of {limit} (timeout), and could not be stopped. Its result is complete. Do a "
            "smaller part of the work per call, or use a faster way."
        )
    told = (
        f"Tool {tool} was stopped: it reached its time limit of {limit} (timeout) and all its "
        "processes were ended."
    )
    start = record.worker_start_s or 0.0
    if start >= START_MOST:
        return (
            f"{told} Its own code had not begun: its worker process imported modules for "
            f"more than {format_duration(START_MOST)}, which is the most that does not count. The "
            "same call will probably end the same way: use another tool."
        )
    if start >= 1 and start > record.duration_s / 3:
        told += (
            f" Another {format_duration(start)}, in which its worker process imported modules for "
            "the first time, did not count."
        )
    if record.background:
        names = ", ".join(map(_printable, record.background))
        return (
            f"{told} By then only processes in the background were left ({names}): the commands "
            "that had started them were done. A background process holds a call while it keeps "
            "the output open: redirect it (>/dev/null 2>&1), or end the process."
        )
    high = record.limits.get("memory_high")
    if record.memory_high_events and isinstance(high, int):
        return (
            f"{told} Its memory was above {format_size(high)} (memory_high), where the kernel "
            "slows processes down. The same call will end the same way: work on less data at "
            "once (stream it, read in chunks), run fewer jobs in parallel, or do a smaller part "
            "of the work per call."
        )
    if record.cpu_usage_s is not None:
        told += f" It had used {format_duration(record.cpu_usage_s)} of CPU time."
    return (
        f"{told} The same call will end the same way: do a smaller part of the work per call, or "
        "use a faster way."
    )


def _oom(record: CallRecord, tool: str, took: str) -> str:
    peak = record.memory_peak_bytes
    used = f" at {format_size(peak)}" if peak is not None else ""
    if record.reason == "memory_max":
        limit = record.limits.get("memory_max")
        size = format_size(limit) if isinstance(limit, int) else "memory"
        cause = f"its processes reached the memory limit of {size} (memory_max)"
        used = ""
    else:
        cause = {
            "agent.memory_max": "the memory limit of all calls of this agent was reached",
            "run.memory_max": "the memory limit of all agents together was reached",
        }.get(record.reason or "", "the machine ran out of memory")
    return (
        f"Tool {tool} was stopped after {took}: {cause}{used}. The same call will end the same "
        "way: work on less data at once (stream it, read in chunks, select columns or files), "
        "run fewer jobs in parallel, or split the work over several calls."
    )


def _how(reason: str) -> str:
    """Return how a worker ended, in words such as "crashed (SIGSEGV)"."""
    what, _, code = reason.partition(": ")
    return f"crashed ({code})" if what == "crashed" else f"ended itself with exit status {code}"


def _printable(name: str) -> str:
    """Return a name from a model or a server, made printable and short enough for one line."""
    shown = "".join(char if char.isprintable() else "?" for char in name[: _NAME_LENGTH + 1])
    if len(shown) > _NAME_LENGTH:
        shown = shown[:_NAME_LENGTH] + "..."
    return f"'{shown}'"
