/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* The maps of calls, cgroups, threads and tasks, and the functions that look things up in them. */
#include "vmlinux.h"
#include "monitor.h"

struct totals {
	u64 cpu_ns;
	u64 run_delay_ns;
	u64 minor_faults;
	u64 major_faults;
	u64 read_bytes;
	u64 write_bytes;
};

struct member {
	u32 slot;
	bool stop_pending; /* it stops itself at its first run */
	u32 ended; /* of a process's first thread: the end of the process was reported */
	struct totals counted;
};

struct {
	MAP_IS(type, BPF_MAP_TYPE_ARRAY);
	MAP_IS(max_entries, MAX_CALLS);
	MAP_IS(map_flags, BPF_F_MMAPABLE);
	MAP_HAS(key, u32);
	MAP_HAS(value, struct call);
} calls SEC(".maps");

struct {
	MAP_IS(type, BPF_MAP_TYPE_HASH);
	MAP_IS(max_entries, MAX_CGROUPS);
	MAP_IS(map_flags, BPF_F_NO_PREALLOC);
	MAP_HAS(key, u64);
	MAP_HAS(value, u32);
} cgroups SEC(".maps");

struct {
	MAP_IS(type, BPF_MAP_TYPE_HASH);
	MAP_IS(max_entries, MAX_THREADS);
	MAP_IS(map_flags, BPF_F_NO_PREALLOC);
	MAP_HAS(key, u32);
	MAP_HAS(value, u32);
} threads SEC(".maps");

struct {
	MAP_IS(type, BPF_MAP_TYPE_HASH);
	MAP_IS(max_entries, MAX_TASKS);
	MAP_IS(map_flags, BPF_F_NO_PREALLOC);
	MAP_HAS(key, u64);
	MAP_HAS(value, struct member);
} members SEC(".maps");

struct {
	MAP_IS(type, BPF_MAP_TYPE_HASH);
	MAP_IS(max_entries, MAX_TASKS);
	MAP_IS(map_flags, BPF_F_NO_PREALLOC);
	MAP_HAS(key, u64);
	MAP_HAS(value, u64);
} stalls SEC(".maps");

struct {
	MAP_IS(type, BPF_MAP_TYPE_ARRAY);
	MAP_IS(max_entries, 1);
	MAP_IS(map_flags, BPF_F_MMAPABLE);
	MAP_HAS(key, u32);
	MAP_HAS(value, struct settings);
} settings SEC(".maps");

/* ---- slots ---------------------------------------------------------------------------------- */

INLINE struct call *call_of(u32 slot)
{
	u32 place = slot & (MAX_CALLS - 1);
	struct call *call = bpf_map_lookup_elem(&calls, &place);

	return call && slot && call->slot == slot ? call : NULL;
}

INLINE void add(u32 slot, enum counter counter, u64 amount)
{
	struct call *call = call_of(slot);

	if (call)
		__sync_fetch_and_add(&call->count[counter], amount);
}

/* The slot of a cgroup, 0 for none. */
INLINE u32 slot_of_cgroup(u64 id)
{
	u32 *slot = bpf_map_lookup_elem(&cgroups, &id);

	return slot && call_of(*slot) ? *slot : 0;
}

INLINE u64 cgroup_of(struct task_struct *task)
{
	return task->cgroups->dfl_cgrp->kn->id;
}

/* Each hierarchy numbers its cgroups by itself; that of cgroup v2 is number 0. */
INLINE bool is_v2(struct cgroup *cgroup)
{
	return cgroup->root->hierarchy_id == 0;
}

/* ---- process ids in the reader's PID namespace --------------------------------------------------- */

INLINE struct settings *get_settings(void)
{
	u32 only = 0;

	return bpf_map_lookup_elem(&settings, &only);
}

INLINE u32 id_for_reader(struct task_struct *task)
{
	struct settings *reader = get_settings();
	struct upid at_level;
	u64 pid = 0;

	if (!reader)
		return 0;
	bpf_probe_read_kernel(&pid, sizeof(pid),
			      __builtin_preserve_access_index(&task->thread_pid));
	if (!pid || READ((struct pid *)pid, level) < reader->pid_level)
		return 0;
	pid += OFFSET(struct pid, numbers) + reader->pid_level * sizeof(at_level);
	bpf_probe_read_kernel(&at_level, sizeof(at_level), (void *)pid);
	if (READ(at_level.ns, ns.inum) != reader->pid_namespace)
		return 0;
	return at_level.nr;
}

/* ---- members -------------------------------------------------------------------------------- */

INLINE struct member *find_member(struct task_struct *task)
{
	u64 key = (u64)task;
	struct member *member = bpf_map_lookup_elem(&members, &key);

	return member && call_of(member->slot) ? member : NULL;
}

INLINE void totals_of(struct task_struct *task, struct totals *now)
{
	now->cpu_ns = task->se.sum_exec_runtime;
	now->minor_faults = task->min_flt;
	now->major_faults = task->maj_flt;
	now->run_delay_ns = EXISTS(task->sched_info.run_delay) ? task->sched_info.run_delay : 0;
	now->read_bytes = EXISTS(task->ioac.read_bytes) ? task->ioac.read_bytes : 0;
	now->write_bytes = EXISTS(task->ioac.write_bytes) ? task->ioac.write_bytes : 0;
}

/* totals_of() through a pointer that the program read from memory. */
INLINE void read_totals(struct task_struct *task, struct totals *now)
{
	now->cpu_ns = READ(task, se.sum_exec_runtime);
	now->minor_faults = READ(task, min_flt);
	now->major_faults = READ(task, maj_flt);
	now->run_delay_ns = EXISTS(task->sched_info.run_delay) ? READ(task, sched_info.run_delay) : 0;
	now->read_bytes = EXISTS(task->ioac.read_bytes) ? READ(task, ioac.read_bytes) : 0;
	now->write_bytes = EXISTS(task->ioac.write_bytes) ? READ(task, ioac.write_bytes) : 0;
}

INLINE void grow(u64 *count, u64 *counted, u64 now)
{
	u64 before = __sync_lock_test_and_set(counted, now);

	if (now != before)
		__sync_fetch_and_add(count, now - before);
}

INLINE void fold(struct member *member, const struct totals *now)
{
	struct call *call = call_of(member->slot);
	struct totals *counted = &member->counted;

	if (!call)
		return;
	grow(&call->count[CPU_NS], &counted->cpu_ns, now->cpu_ns);
	grow(&call->count[RUN_DELAY_NS], &counted->run_delay_ns, now->run_delay_ns);
	grow(&call->count[MINOR_FAULTS], &counted->minor_faults, now->minor_faults);
	grow(&call->count[MAJOR_FAULTS], &counted->major_faults, now->major_faults);
	grow(&call->count[IO_READ_BYTES], &counted->read_bytes, now->read_bytes);
	grow(&call->count[IO_WRITE_BYTES], &counted->write_bytes, now->write_bytes);
}

/* Make a newborn task a member: the call is charged all that the task ever uses. */
INLINE void add_newborn(struct task_struct *task, u32 slot)
{
	struct member member = {.slot = slot};
	u64 key = (u64)task;

	bpf_map_update_elem(&members, &key, &member, BPF_ANY);
}

/*
 * A newborn task that belongs to no call.  Of some thousand tasks one was freed without its
 * tracepoint being hit (seen on 6.18): the entry it left must not make a member of the next task at
 * the same address.
 */
INLINE void drop_newborn(struct task_struct *task)
{
	u64 key = (u64)task;

	if (bpf_map_lookup_elem(&members, &key))
		bpf_map_delete_elem(&members, &key);
}

/*
 * The member of a task.  A task that was in its cgroup before the cgroup was watched becomes a
 * member here, and is counted from now on.
 */
INLINE struct member *member_of(struct task_struct *task)
{
	struct member *known = find_member(task);
	struct member fresh = {};
	u64 key = (u64)task;

	if (known)
		return known;
	fresh.slot = slot_of_cgroup(cgroup_of(task));
	if (!fresh.slot)
		return NULL;
	totals_of(task, &fresh.counted);
	bpf_map_update_elem(&members, &key, &fresh, BPF_ANY);
	return bpf_map_lookup_elem(&members, &key);
}

/* The slot that a thread outside of the calls' cgroups works for (`threads`), 0 for none. */
INLINE u32 slot_of_thread(struct task_struct *task)
{
	u32 id = id_for_reader(task);
	u32 *slot = id ? bpf_map_lookup_elem(&threads, &id) : NULL;

	return slot && call_of(*slot) ? *slot : 0;
}

/* The slot of the call that the current task works for, 0 for none. */
INLINE u32 current_slot(void)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct member *member = find_member(task);
	u32 slot;

	if (member)
		return member->slot;
	slot = slot_of_cgroup(cgroup_of(task));
	return slot ? slot : slot_of_thread(task);
}
