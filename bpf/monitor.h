/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * The memory that the programs and their reader share; layout.py is the same in Python, and a test
 * compares the two.
 */
#ifndef AGENTCGROUP_MONITOR_H
#define AGENTCGROUP_MONITOR_H

#include "helpers.h"

/*
 * A slot is the number of a watched call.  Its low bits are the index of the call's counters in the
 * array `calls`; the high bits differ from one user of that index to the next.  A task that still
 * has the slot of an earlier call finds another number there and is not counted.
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

/* What the running kernel has; where the bit of a counter is not set, the counter is absent. */
enum feature {
	HAS_RUN_DELAY = 1,
	HAS_IO_BYTES = 2,
	HAS_SIGNAL_TASK = 4,
};

struct settings {
	u32 stop; /* stop a process at birth that is born outside its call */
	u32 page_bytes; /* the reader writes up to here, introduce() the rest */
	u32 features;
	u32 pid_level; /* depth of the reader's PID namespace */
	u32 pid_namespace; /* its inode number, since others have the same depth */
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

/* Process ids are those of the reader's PID namespace, 0 for processes outside of it. */
struct event {
	u64 time_ns; /* CLOCK_MONOTONIC */
	u64 cgroup_id; /* of the process now */
	u32 kind;
	u32 slot;
	u32 pid;
	u32 tid;
	u32 ppid;
	u32 by; /* the process that moved it (LEAVE, ATTACH) */
	s32 status; /* EXIT: as in wait(2); LEAVE: the slot of its cgroup now, or 0 */
	u32 stopped; /* ESCAPE: the program sends SIGSTOP, the reader has to send SIGCONT */
	char comm[16];
};

struct exec_event {
	struct event event;
	char filename[128];
};

#endif
