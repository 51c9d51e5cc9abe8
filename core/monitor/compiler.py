"""A process that compiles BPF programs with BCC, attaches them, sends their descriptors, and ends.

`bcc` runs this file with the folder of BCC's module and the descriptor of a socket. It is a process
of its own because BCC loads a compiler, which takes seconds and more than 100 MB, and writes
messages to stdout and stderr. The programs stay attached as long as a process has their
descriptors.

The programs use raw tracepoints, which need no types in the kernel (BTF), no trampolines and no
tracefs. BCC finds the offset of a field in the kernel's headers, and makes each access through a
pointer a checked read, so the code can follow pointers as the kernel's own code does.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
from typing import Any, Final

__all__ = ["PAGES", "TRACEPOINTS"]

#: Pages of the ring buffer: room for the events of 2600 processes that run one program each.
PAGES: Final = 256
TRACEPOINTS: Final = (
    "sched_process_fork",
    "sched_process_exec",
    "sched_process_exit",
    "mark_victim",
)

_SOURCE: Final = """
#include <linux/binfmts.h>
#include <linux/cgroup-defs.h>
#include <linux/kernfs.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>

/* bcc.py has the same numbers, and the same layout of the event. */
enum { FORK, EXEC, EXIT, OOM };

struct event {
	u64 time_ns;
	u64 cgroup;	/* of a newborn */
	u32 kind;
	u32 pid;
	u32 parent;
	u32 thread;	/* the parent's, which forked */
	s32 status;	/* at the exit, as in wait(2) */
	char program[256];
};

#define WITHOUT_PROGRAM offsetof(struct event, program)

BPF_RINGBUF_OUTPUT(events, PAGES);
/* Number of events that found no room, in memory that the reader shares. */
BPF_F_TABLE("array", int, u64, lost, 1, BPF_F_MMAPABLE);

static inline void report(struct event *event, u32 size)
{
	int only = 0;

	event->time_ns = bpf_ktime_get_ns();
	if (events.ringbuf_output(event, size, 0))
		lost.atomic_increment(only);
}

RAW_TRACEPOINT_PROBE(sched_process_fork)
{
	struct task_struct *child = (struct task_struct *)ctx->args[1];
	u64 forking = bpf_get_current_pid_tgid();
	struct event event = {.kind = FORK};

	event.pid = child->pid;
	if (child->tgid != event.pid)
		return 0; /* a thread */
	event.parent = forking >> 32;
	event.thread = forking;
	/* The child's cgroup is final here, CLONE_INTO_CGROUP included. */
	event.cgroup = child->cgroups->dfl_cgrp->kn->id;
	report(&event, WITHOUT_PROGRAM);
	return 0;
}

RAW_TRACEPOINT_PROBE(sched_process_exec)
{
	struct linux_binprm *binary = (struct linux_binprm *)ctx->args[2];
	const char *program = binary->filename;
	struct event event = {.kind = EXEC};

	event.pid = bpf_get_current_pid_tgid() >> 32;
	bpf_probe_read_kernel_str(event.program, sizeof(event.program), program);
	report(&event, sizeof(event));
	return 0;
}

/* Threads that end together may each be the last: the reader takes a second exit. */
RAW_TRACEPOINT_PROBE(sched_process_exit)
{
	struct task_struct *task = (struct task_struct *)ctx->args[0];
	struct signal_struct *process = task->signal;
	struct event event = {.kind = EXIT};

	if (process->live.counter)
		return 0;
	event.pid = bpf_get_current_pid_tgid() >> 32;
	/* All threads have one status when one of them ended all. */
	if (process->flags & SIGNAL_GROUP_EXIT)
		event.status = process->group_exit_code;
	else
		event.status = task->group_leader->exit_code;
	report(&event, WITHOUT_PROGRAM);
	return 0;
}

/* Its argument is the process's id up to 6.8, and the task since 6.9. */
RAW_TRACEPOINT_PROBE(mark_victim)
{
	struct task_struct *victim = (struct task_struct *)ctx->args[0];
	struct event event = {.kind = OOM};

	if ((u64)victim >> 32)
		event.pid = victim->tgid;
	else
		event.pid = (u64)victim;
	report(&event, WITHOUT_PROGRAM);
	return 0;
}
"""


def main() -> None:
    """Compile, attach, and send the descriptors of both maps and of the attached programs."""
    module = _load(sys.argv[1])
    programs = module.BPF(text=_SOURCE, cflags=[f"-DPAGES={PAGES}", "-w"])
    links = [programs.raw_tracepoint_fds[name.encode()] for name in TRACEPOINTS]
    with socket.socket(fileno=int(sys.argv[2])) as reader:
        maps = [programs[name].map_fd for name in ("events", "lost")]
        socket.send_fds(reader, [b"."], [*maps, *links])
    os._exit(0)  # skips BCC's exit handlers, which detach the programs


def _load(folder: str) -> Any:
    """Import BCC's module by its path, and nothing else of that folder."""
    path = os.path.join(folder, "__init__.py")
    spec = importlib.util.spec_from_file_location("bcc", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bcc"] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
