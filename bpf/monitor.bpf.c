// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only)
/*
 * What every call of an agent does, counted in the kernel.
 *
 * Theory of operation
 * -------------------
 * A call is a slot of the array `calls`; `cgroups` says which cgroup belongs to which slot, and
 * inherits it to each cgroup that is made below, before anything can enter there.  A task that is
 * born in such a cgroup, or comes into one, becomes a member: `members` holds its slot and how
 * much of its own totals (CPU time, faults, ...) has been counted already.  To count is to fold:
 * what the totals have grown by since last time is added to the call.  That happens when a task
 * ends, when it moves, when the iterator runs because somebody wants to know about the living,
 * and, in full detail, each time it leaves a CPU.  Two that fold at once do no harm: each
 * exchanges the old total for what it read and adds the difference, so the sum is always the last
 * total.
 *
 * A task that has ended still runs for a moment and is freed only after an RCU grace period; what
 * it used in between is folded then.  Members are keyed by the address of the task, not by its
 * pid, which may have a new owner by that time.
 *
 * A child that is born outside its parent's call, or a member that moves away, stays a member and
 * is reported: whoever reads the events brings it home.
 *
 * A thread of the host that runs the body of a tool itself (`threads`) is no member, as its
 * totals are its own business and it can read them; it only lends its slot to what it charges,
 * opens and forks.
 *
 * Which of the programs run depends on the kernel and on the rights of who loads them; each
 * stands alone, except those that follow the members (fork to rmdir).
 */
#include "events.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#include "life.bpf.h"
#include "memory.bpf.h"
#include "scheduler.bpf.h"
#include "traffic.bpf.h"
