/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * What the programs and their reader share; layout.py is the same in Python, and a test holds
 * the two together.
 */
#ifndef AGENTCGROUP_MONITOR_H
#define AGENTCGROUP_MONITOR_H

#include "helpers.h"

/*
 * A slot is the number of a watched call.  Its low bits say where in the array `calls` its
 * counters lie, the others tell one user of that place from the next: what still carries the
 * slot of a call that is gone meets another number there and counts nowhere.
 */
enum {
	MAX_CALLS = 4096,
	MAX_CGROUPS = 65536,
	MAX_TASKS = 65536,
	MAX_THREADS = 4096,
	RING_BYTES = 1 << 20,
};

enum counter {
	PROCESSES_STARTED,
	PROGRAMS_EXECUTED,
	EXITS,
	ESCAPES,
	EVENTS_LOST,
	CPU_NS,
	RUN_DELAY_NS,
	MINOR_FAULTS,
	MAJOR_FAULTS,
	IO_READ_BYTES,
	IO_WRITE_BYTES,
	MEMORY_CHARGED_BYTES,
	RECLAIM_NS,
	MEMORY_HIGH_NS,
	OOM_KILLS,
	FILES_OPENED,
	BLOCK_READ_BYTES,
	BLOCK_WRITE_BYTES,
	NET_RX_BYTES,
	NET_TX_BYTES,
	COUNTERS,
};

/* Waits for a CPU, by powers of two from 1 us: the last takes all from 2^22 us (4 s) on. */
enum { WAITS = 24 };

struct call {
	u64 slot;
	u64 count[COUNTERS];
	u64 waits[WAITS];
};

/* What the kernel at hand has; for a bit of a counter that is not set, the counter is absent. */
enum feature {
	HAS_RUN_DELAY = 1,
	HAS_IO_BYTES = 2,
	HAS_SIGNAL_TASK = 4,
};

struct settings {
	u32 stop; /* stop at birth what is born outside its call */
	u32 page_bytes; /* up to here written by the reader, from here on by introduce() */
	u32 features;
	u32 pid_level; /* how deep the reader's PID namespace lies */
	u32 pid_namespace; /* and its inode, so that it is told from others of that depth */
};

enum kind {
	FORK,
	EXEC,
	EXIT,
	OOM,
	ESCAPE, /* born outside its call's cgroup */
	LEAVE, /* moved away from its call's cgroup */
	ATTACH, /* came into a call's cgroup, for the first time or again */
};

/* Process ids are those of the reader's PID namespace, 0 for what is not seen from there. */
struct event {
	u64 time_ns; /* CLOCK_MONOTONIC */
	u64 cgroup_id; /* where the process is now */
	u32 kind;
	u32 slot;
	u32 pid;
	u32 tid;
	u32 ppid;
	u32 by; /* who has moved it (LEAVE, ATTACH) */
	s32 status; /* EXIT: as wait(2) gives it; LEAVE: the slot where it is now, or 0 */
	u32 stopped; /* ESCAPE: SIGSTOP is on its way, and SIGCONT is up to the reader */
	char comm[16];
};

struct exec_event {
	struct event event;
	char filename[128];
};

#endif
