"""A process that has BCC compile our programs, hands over what it made of them, and ends.

Run as a file by `bcc`, with the folder of BCC's module and the descriptor of a socket. It is a
process of its own because BCC brings a compiler along, which takes seconds and more than 100 MB,
and tells stdout and stderr what it thinks of its input: all of that is gone with it. What it has
attached stays as long as somebody has the descriptors.

The programs sit on raw tracepoints, which take neither types in the kernel (BTF) nor trampolines
nor tracefs. Where a field lies BCC knows from the kernel's headers, and it makes each access a
checked one, which is why the code can follow pointers as the kernel's own would.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
from typing import Any, Final

__all__ = ["PAGES", "TRACEPOINTS"]

#: Of the ring buffer: room for the events of some 2600 processes that run one program each.
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

/* `bcc.py` knows their numbers, and the layout of the event. */
enum { FORK, EXEC, EXIT, OOM };

struct event {
	u64 time_ns;
	u64 cgroup;	/* that a newborn is in */
	u32 lost;	/* events before it */
	u32 kind;
	u32 pid;
	u32 parent;
	u32 thread;	/* of the parent, that forked */
	s32 status;	/* at the exit, as wait(2) tells it */
	char program[256];
};

#define WITHOUT_PROGRAM offsetof(struct event, program)

BPF_RINGBUF_OUTPUT(events, PAGES);
BPF_ARRAY(lost, u32, 1);

static inline void tell(struct event *event, u32 size)
{
	int first = 0;
	u32 *before = lost.lookup(&first);

	event->time_ns = bpf_ktime_get_ns();
	if (before)
		event->lost = *before;
	if (events.ringbuf_output(event, size, 0) && before)
		lock_xadd(before, 1);
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
	/* It is final here, CLONE_INTO_CGROUP included. */
	event.cgroup = child->cgroups->dfl_cgrp->kn->id;
	tell(&event, WITHOUT_PROGRAM);
	return 0;
}

RAW_TRACEPOINT_PROBE(sched_process_exec)
{
	struct linux_binprm *binary = (struct linux_binprm *)ctx->args[2];
	const char *program = binary->filename;
	struct event event = {.kind = EXEC};

	event.pid = bpf_get_current_pid_tgid() >> 32;
	bpf_probe_read_kernel_str(event.program, sizeof(event.program), program);
	tell(&event, sizeof(event));
	return 0;
}

/* Several threads that end together may each find that no other one lives: the reader bears it. */
RAW_TRACEPOINT_PROBE(sched_process_exit)
{
	struct task_struct *task = (struct task_struct *)ctx->args[0];
	struct signal_struct *process = task->signal;
	struct event event = {.kind = EXIT};

	if (process->live.counter)
		return 0;
	event.pid = bpf_get_current_pid_tgid() >> 32;
	/* One status for all threads when one of them ended all. */
	if (process->flags & SIGNAL_GROUP_EXIT)
		event.status = process->group_exit_code;
	else
		event.status = task->group_leader->exit_code;
	tell(&event, WITHOUT_PROGRAM);
	return 0;
}

/* It brings the process's id up to 6.8, and the process itself since. */
RAW_TRACEPOINT_PROBE(mark_victim)
{
	struct task_struct *victim = (struct task_struct *)ctx->args[0];
	struct event event = {.kind = OOM};

	if ((u64)victim >> 32)
		event.pid = victim->tgid;
	else
		event.pid = (u64)victim;
	tell(&event, WITHOUT_PROGRAM);
	return 0;
}
"""


def main() -> None:
    """Compile, attach, and send the ring buffer's descriptor and those of what is attached."""
    module = _load(sys.argv[1])
    programs = module.BPF(text=_SOURCE, cflags=[f"-DPAGES={PAGES}", "-w"])
    links = [programs.raw_tracepoint_fds[name.encode()] for name in TRACEPOINTS]
    with socket.socket(fileno=int(sys.argv[2])) as reader:
        socket.send_fds(reader, [b"."], [programs["events"].map_fd, *links])
    os._exit(0)  # not by way of what BCC does at the end: it takes off what it has attached


def _load(folder: str) -> Any:
    """Import BCC's module from where it is, and nothing else that lies there."""
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
