// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only)
/*
 * Counts and reports, in the kernel, what every call of an agent does.
 *
 * A call is a slot of the array `calls`.  `cgroups` maps a cgroup to its slot; a cgroup that is made
 * below gets the same slot before a task can enter it.  A task that is born in such a cgroup, or
 * moves into one, becomes a member: `members` holds its slot and how much of the task's own totals
 * (CPU time, faults, ...) has been counted already.  fold() adds to the call what the totals have
 * grown by since the last time.  It runs when a task ends, when it moves, when the reader runs the
 * iterator to count living tasks, and, in full detail, each time the task leaves a CPU.  Two CPUs
 * may fold one task at once: each exchanges the old total for the one it read and adds the
 * difference, so the sum is always the last total.
 *
 * A task that has ended still runs for a moment and is freed only after an RCU grace period;
 * on_free() folds what it used in between.  The key of a member is the address of the task and not
 * its pid, which another task may have by that time.
 *
 * A child that is born outside its parent's call stays a member, and so does a member that moves
 * away.  Both are reported, and the reader of the events moves them back.
 *
 * A thread of the app that runs the body of a tool itself (`threads`) is no member: the app reads
 * the thread's totals itself.  Memory that is charged to the thread, files that it opens and
 * processes that it starts count for the thread's slot.
 *
 * The kernel and the rights of the loading process decide which programs run.  Each program works
 * without the others, except those that follow the members (fork to rmdir).
 */
#include "events.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#include "life.bpf.h"
#include "moves.bpf.h"
#include "reader.bpf.h"
#include "memory.bpf.h"
#include "scheduler.bpf.h"
#include "traffic.bpf.h"
