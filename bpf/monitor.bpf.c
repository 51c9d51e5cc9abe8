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
#include "kernel.h"
#include "monitor.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define SAW_OUTSIDE 1 /* of a member: not in its call's cgroup now */
#define STOP_PENDING 2 /* of a member: to be stopped as it runs for the first time */

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
	u32 flags;
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

struct {
	MAP_IS(type, BPF_MAP_TYPE_RINGBUF);
	MAP_IS(max_entries, RING_BYTES);
} events SEC(".maps");

/* From kernel 6.13 on. */
KFUNC int bpf_send_signal_task(struct task_struct *task, int signal, enum pid_type type,
			       u64 value);

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

/* ---- process ids as the reader knows them --------------------------------------------------- */

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

/* The same through a pointer found in memory. */
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

/* Make a member of a task just born: all that it will ever use is its call's. */
INLINE void welcome_newborn(struct task_struct *task, u32 slot, u32 flags)
{
	struct member member = {.slot = slot, .flags = flags};
	u64 key = (u64)task;

	bpf_map_update_elem(&members, &key, &member, BPF_ANY);
}

/*
 * A task just born that is nobody's.  Of some thousand tasks one was freed without its tracepoint
 * being hit (seen on 6.18): what it left must not make a member of whom its memory goes to.
 */
INLINE void pass_newborn(struct task_struct *task)
{
	u64 key = (u64)task;

	if (bpf_map_lookup_elem(&members, &key))
		bpf_map_delete_elem(&members, &key);
}

/*
 * The member that a task is; one that was in its cgroup before that was watched becomes a member
 * here, counted from now on.
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

INLINE u32 slot_lent_to(struct task_struct *task)
{
	u32 id = id_for_reader(task);
	u32 *slot = id ? bpf_map_lookup_elem(&threads, &id) : NULL;

	return slot && call_of(*slot) ? *slot : 0;
}

/* For whom the current task works. */
INLINE u32 current_slot(void)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct member *member = find_member(task);
	u32 slot;

	if (member)
		return member->slot;
	slot = slot_of_cgroup(cgroup_of(task));
	return slot ? slot : slot_lent_to(task);
}

/* ---- events --------------------------------------------------------------------------------- */

INLINE void describe(struct event *event, enum kind kind, u32 slot, struct task_struct *task)
{
	event->time_ns = bpf_ktime_get_ns();
	event->cgroup_id = cgroup_of(task);
	event->kind = kind;
	event->slot = slot;
	event->pid = id_for_reader(task->group_leader);
	event->tid = id_for_reader(task);
	event->ppid = id_for_reader(task->real_parent->group_leader);
	event->by = 0;
	event->status = 0;
	event->stopped = 0;
	bpf_probe_read_kernel(event->comm, sizeof(event->comm),
			      __builtin_preserve_access_index(&task->comm));
}

/* What somebody has to act upon wakes the reader; the rest it finds when it looks. */
INLINE u64 wake(bool urgent)
{
	bool filling = bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) > RING_BYTES / 4;

	return urgent || filling ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP;
}

INLINE struct event *begin_event(enum kind kind, u32 slot, struct task_struct *task)
{
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (event)
		describe(event, kind, slot, task);
	else
		add(slot, EVENTS_LOST, 1);
	return event;
}

/* ---- the life of processes, always needed --------------------------------------------------- */

INLINE void report_escape(struct task_struct *child, u32 slot)
{
	struct settings *reader = get_settings();
	bool stop = reader && reader->stop;
	struct event *event;

	add(slot, ESCAPES, 1);
	event = begin_event(ESCAPE, slot, child);
	if (!event)
		return; /* nobody would let it go on */
	if (stop) {
		struct member *member = find_member(child);

		event->stopped = 1;
		/* Pending before the child's first instruction; on older kernels stop_newborn(). */
		if (bpf_send_signal_task)
			bpf_send_signal_task(child, SIGSTOP, PIDTYPE_TGID, 0);
		else if (member)
			member->flags |= STOP_PENDING;
	}
	bpf_ringbuf_submit(event, wake(1));
}

SEC("tp_btf/sched_process_fork")
int on_fork(u64 *ctx)
{
	struct task_struct *parent = (void *)ctx[0], *child = (void *)ctx[1];
	struct member *kin = find_member(parent);
	/* The child's cgroup is final here, CLONE_INTO_CGROUP included. */
	u32 slot = slot_of_cgroup(cgroup_of(child));
	bool outside = 0;
	struct event *event;

	if (child->pid != child->tgid) {
		if (kin)
			welcome_newborn(child, kin->slot, kin->flags & SAW_OUTSIDE);
		else if (slot)
			welcome_newborn(child, slot, 0);
		else
			pass_newborn(child);
		return 0;
	}
	if (!slot) {
		slot = kin ? kin->slot : slot_lent_to(parent);
		outside = 1;
	}
	if (!slot) {
		pass_newborn(child);
		return 0;
	}
	welcome_newborn(child, slot, outside ? SAW_OUTSIDE : 0);
	add(slot, PROCESSES_STARTED, 1);
	if (outside) {
		report_escape(child, slot);
		return 0;
	}
	event = begin_event(FORK, slot, child);
	if (event)
		bpf_ringbuf_submit(event, wake(0));
	return 0;
}

SEC("tp_btf/sched_process_exec")
int on_exec(u64 *ctx)
{
	struct task_struct *task = (void *)ctx[0];
	struct linux_binprm *binary = (void *)ctx[2];
	struct member *member = member_of(task);
	struct exec_event *event;

	if (!member)
		return 0;
	add(member->slot, PROGRAMS_EXECUTED, 1);
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		add(member->slot, EVENTS_LOST, 1);
		return 0;
	}
	describe(&event->event, EXEC, member->slot, task);
	event->filename[0] = 0;
	bpf_probe_read_kernel_str(event->filename, sizeof(event->filename), binary->filename);
	bpf_ringbuf_submit(event, wake(0));
	return 0;
}

/* As wait(2) will tell it: one status for all threads when one of them ended all. */
INLINE s32 exit_status(struct task_struct *task)
{
	if (task->signal->flags & SIGNAL_GROUP_EXIT)
		return task->signal->group_exit_code;
	return task->group_leader->exit_code;
}

SEC("tp_btf/sched_process_exit")
int on_exit(u64 *ctx)
{
	struct task_struct *task = (void *)ctx[0];
	struct member *member = member_of(task);
	struct event *event;
	struct totals now;

	if (!member)
		return 0;
	totals_of(task, &now);
	fold(member, &now);
	if (task->signal->live.counter) /* other threads go on */
		return 0;
	add(member->slot, EXITS, 1);
	event = begin_event(EXIT, member->slot, task);
	if (!event)
		return 0;
	event->status = exit_status(task);
	bpf_ringbuf_submit(event, wake(0));
	return 0;
}

SEC("tp_btf/sched_process_free")
int on_free(u64 *ctx)
{
	struct task_struct *task = (void *)ctx[0];
	struct member *member = find_member(task);
	u64 key = (u64)task;
	struct totals now;

	if (member) {
		totals_of(task, &now);
		fold(member, &now);
	}
	bpf_map_delete_elem(&members, &key);
	return 0;
}

SEC("tp_btf/cgroup_mkdir")
int on_mkdir(u64 *ctx)
{
	struct cgroup *cgroup = (void *)ctx[0];
	u64 id, parent;
	u32 slot;

	if (!is_v2(cgroup))
		return 0;
	id = cgroup->kn->id;
	parent = cgroup->self.parent->cgroup->kn->id;
	slot = slot_of_cgroup(parent);
	if (slot)
		bpf_map_update_elem(&cgroups, &id, &slot, BPF_ANY);
	return 0;
}

SEC("tp_btf/cgroup_rmdir")
int on_rmdir(u64 *ctx)
{
	struct cgroup *cgroup = (void *)ctx[0];
	u64 id;

	if (!is_v2(cgroup))
		return 0;
	id = cgroup->kn->id;
	bpf_map_delete_elem(&cgroups, &id);
	return 0;
}

/* One thread of a process that has moved; `slot` is where it is now, 0 for no call's cgroup. */
INLINE void move_thread(struct task_struct *task, u32 slot)
{
	u64 key = (u64)task;
	struct member *known = bpf_map_lookup_elem(&members, &key);
	struct member fresh = {.slot = slot};
	struct totals now;

	if (known && !call_of(known->slot))
		known = NULL;
	if (known && known->slot == slot) {
		known->flags = 0;
		return;
	}
	if (known && !slot) {
		known->flags |= SAW_OUTSIDE;
		return;
	}
	read_totals(task, &now);
	if (known)
		fold(known, &now);
	fresh.counted = now;
	bpf_map_update_elem(&members, &key, &fresh, BPF_ANY);
}

struct walk {
	u64 node; /* of the list of threads */
	u64 head;
	u32 slot;
};

static long move_next(u32 index, struct walk *walk)
{
	if (!walk->node || walk->node == walk->head)
		return 1; /* that was all */
	move_thread((void *)(walk->node - OFFSET(struct task_struct, thread_node)), walk->slot);
	walk->node = (u64)READ((struct list_head *)walk->node, next);
	return 0;
}

/* A process of more threads than these is taken over with its first ones. */
#define THREADS_MOVED 4096

INLINE void move_threads(struct task_struct *leader, u32 slot)
{
	u64 head = (u64)READ(leader, signal) + OFFSET(struct signal_struct, thread_head);
	struct walk walk = {.head = head, .slot = slot};

	walk.node = (u64)READ((struct list_head *)head, next);
	bpf_loop(THREADS_MOVED, move_next, &walk, 0);
}

/* It comes once for a process, with its leader, after the move. */
SEC("tp_btf/cgroup_attach_task")
int on_attach(u64 *ctx)
{
	struct cgroup *to = (void *)ctx[0];
	struct task_struct *leader = (void *)ctx[2];
	struct member *known = find_member(leader);
	u32 before = known ? known->slot : 0, slot;
	struct event *event;

	if (!is_v2(to))
		return 0;
	slot = slot_of_cgroup(to->kn->id);
	if (!slot && !before)
		return 0;
	move_threads(leader, slot);
	if (before && slot != before) {
		event = begin_event(LEAVE, before, leader);
		if (event) {
			event->by = id_for_reader(bpf_get_current_task_btf()->group_leader);
			event->status = slot;
			bpf_ringbuf_submit(event, wake(1));
		}
	}
	if (slot) {
		event = begin_event(ATTACH, slot, leader);
		if (event) {
			event->by = id_for_reader(bpf_get_current_task_btf()->group_leader);
			bpf_ringbuf_submit(event, wake(0));
		}
	}
	return 0;
}

/* Runs when the reader reads its link: counts what the living have used up to now. */
SEC("iter/task")
int living(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct member *member;
	struct totals now;

	if (!task)
		return 0;
	member = member_of(task);
	if (!member)
		return 0;
	totals_of(task, &now);
	fold(member, &now);
	return 0;
}

/* Runs once, by the reader itself: what this kernel keeps, and which process ids the reader knows. */
SEC("iter/task")
int introduce(struct bpf_iter__task *ctx)
{
	struct task_struct *self = bpf_get_current_task_btf();
	struct settings *reader = get_settings();
	u64 pid;
	struct upid own;

	if (ctx->meta->seq_num || !reader)
		return 0;
	if (EXISTS(self->sched_info.run_delay))
		reader->features |= HAS_RUN_DELAY;
	if (EXISTS(self->ioac.read_bytes))
		reader->features |= HAS_IO_BYTES;
	if (bpf_send_signal_task)
		reader->features |= HAS_SIGNAL_TASK;
	pid = (u64)READ(self, thread_pid);
	reader->pid_level = READ((struct pid *)pid, level);
	pid += OFFSET(struct pid, numbers) + reader->pid_level * sizeof(own);
	bpf_probe_read_kernel(&own, sizeof(own), (void *)pid);
	reader->pid_namespace = READ(own.ns, ns.inum);
	return 0;
}

/* Before 6.13 a signal can be sent only to oneself: the child does it as it first runs. */
SEC("fexit/schedule_tail")
int stop_newborn(u64 *ctx)
{
	struct member *member = find_member(bpf_get_current_task_btf());

	if (member && member->flags & STOP_PENDING) {
		member->flags &= ~STOP_PENDING;
		bpf_send_signal(SIGSTOP);
	}
	return 0;
}

/* ---- memory --------------------------------------------------------------------------------- */

INLINE u64 cgroup_of_memory(struct mem_cgroup *memory)
{
	return memory->css.cgroup->kn->id;
}

/* Pages of 4096 bytes; on machines with other pages memory_charged_bytes is in those. */
#define PAGE_SHIFT 12

/* Exact, as every charge passes here, huge pages as one of many; to a thread, where it lent. */
SEC("fexit/try_charge_memcg")
int on_charge(u64 *ctx)
{
	struct mem_cgroup *memory = (void *)ctx[0];
	u32 pages = ctx[2];
	u32 slot;

	if ((s32)ctx[3]) /* refused */
		return 0;
	slot = slot_lent_to(bpf_get_current_task_btf());
	if (!slot)
		slot = slot_of_cgroup(cgroup_of_memory(memory));
	if (slot)
		add(slot, MEMORY_CHARGED_BYTES, (u64)pages << PAGE_SHIFT);
	return 0;
}

enum stall { RECLAIM, HIGH };

/* A task can be in one of each: the brake of memory.high reclaims, too. */
INLINE u64 stall_key(enum stall stall)
{
	return (u32)bpf_get_current_pid_tgid() | (u64)stall << 32;
}

INLINE void begin_stall(enum stall stall)
{
	u64 key = stall_key(stall), now;

	if (!current_slot())
		return;
	now = bpf_ktime_get_ns();
	bpf_map_update_elem(&stalls, &key, &now, BPF_ANY);
}

INLINE void end_stall(enum stall stall, enum counter counter)
{
	u64 key = stall_key(stall), *began = bpf_map_lookup_elem(&stalls, &key);

	if (!began)
		return;
	add(current_slot(), counter, bpf_ktime_get_ns() - *began);
	bpf_map_delete_elem(&stalls, &key);
}

SEC("tp_btf/mm_vmscan_memcg_reclaim_begin")
int memcg_reclaim(u64 *ctx)
{
	begin_stall(RECLAIM);
	return 0;
}

SEC("tp_btf/mm_vmscan_memcg_reclaim_end")
int memcg_reclaimed(u64 *ctx)
{
	end_stall(RECLAIM, RECLAIM_NS);
	return 0;
}

SEC("tp_btf/mm_vmscan_direct_reclaim_begin")
int direct_reclaim(u64 *ctx)
{
	begin_stall(RECLAIM);
	return 0;
}

SEC("tp_btf/mm_vmscan_direct_reclaim_end")
int direct_reclaimed(u64 *ctx)
{
	end_stall(RECLAIM, RECLAIM_NS);
	return 0;
}

/* Up to 6.12 the kernel calls it with nothing to do, too. */
INLINE void begin_high(void)
{
	if (bpf_get_current_task_btf()->memcg_nr_pages_over_high)
		begin_stall(HIGH);
}

SEC("fentry/mem_cgroup_handle_over_high")
int high(u64 *ctx)
{
	begin_high();
	return 0;
}

SEC("fexit/mem_cgroup_handle_over_high")
int high_over(u64 *ctx)
{
	end_stall(HIGH, MEMORY_HIGH_NS);
	return 0;
}

SEC("fentry/__mem_cgroup_handle_over_high")
int high_new(u64 *ctx)
{
	begin_high();
	return 0;
}

SEC("fexit/__mem_cgroup_handle_over_high")
int high_over_new(u64 *ctx)
{
	end_stall(HIGH, MEMORY_HIGH_NS);
	return 0;
}

INLINE void report_oom(struct task_struct *victim)
{
	struct member *member = find_member(victim);
	u32 slot = member ? member->slot : slot_of_cgroup(cgroup_of(victim));
	struct event *event;

	if (!slot)
		return;
	add(slot, OOM_KILLS, 1);
	event = begin_event(OOM, slot, victim);
	if (event)
		bpf_ringbuf_submit(event, wake(1));
}

SEC("fentry/__oom_kill_process")
int on_oom(u64 *ctx)
{
	report_oom((void *)ctx[0]);
	return 0;
}

/* Where on_oom cannot be: its argument is the task since 6.9, a bare pid before. */
SEC("tp_btf/mark_victim")
int on_oom_mark(u64 *ctx)
{
	report_oom((void *)ctx[0]);
	return 0;
}

/* ---- files, blocks, packets ----------------------------------------------------------------- */

SEC("fentry/security_file_open")
int on_open(u64 *ctx)
{
	u32 slot = current_slot();

	if (slot)
		add(slot, FILES_OPENED, 1);
	return 0;
}

enum { REQ_OP_READ, REQ_OP_WRITE, REQ_OP_MASK = 0xff };

/* Write-back is on the account of the cgroup that has dirtied the page. */
SEC("tp_btf/block_bio_queue")
int on_bio(u64 *ctx)
{
	struct bio *bio = (void *)ctx[0];
	u32 operation = bio->bi_opf & REQ_OP_MASK, slot;

	/* Others, such as discards, have a size, too, but move no bytes. */
	if (operation != REQ_OP_READ && operation != REQ_OP_WRITE)
		return 0;
	slot = slot_of_cgroup(bio->bi_blkg->blkcg->css.cgroup->kn->id);
	if (!slot)
		return 0;
	if (operation == REQ_OP_READ)
		add(slot, BLOCK_READ_BYTES, bio->bi_iter.bi_size);
	else
		add(slot, BLOCK_WRITE_BYTES, bio->bi_iter.bi_size);
	return 0;
}

/* Both sit on a cgroup above the calls' and see what its sockets send and get, IP header on. */
SEC("cgroup_skb/ingress")
int on_ingress(struct __sk_buff *packet)
{
	add(slot_of_cgroup(bpf_skb_cgroup_id(packet)), NET_RX_BYTES, packet->len);
	return 1;
}

SEC("cgroup_skb/egress")
int on_egress(struct __sk_buff *packet)
{
	add(slot_of_cgroup(bpf_skb_cgroup_id(packet)), NET_TX_BYTES, packet->len);
	return 1;
}

/* ---- the scheduler, in full detail only ----------------------------------------------------- */

INLINE u32 magnitude(u64 us)
{
	u32 result = 0;

#pragma clang loop unroll(full)
	for (int i = 0; i < WAITS - 1; i++)
		result += us >> i != 0;
	return result;
}

/* As a member leaves the CPU, how long it had waited for it is known. */
SEC("tp_btf/sched_switch")
int on_switch(u64 *ctx)
{
	struct task_struct *task = (void *)ctx[1];
	struct member *member = find_member(task);
	struct call *call = member ? call_of(member->slot) : NULL;
	struct totals now;
	u64 waited;
	u32 wait;

	if (!call)
		return 0;
	totals_of(task, &now);
	waited = now.run_delay_ns - member->counted.run_delay_ns;
	fold(member, &now);
	wait = magnitude(waited / 1000);
	if (waited && wait < WAITS)
		__sync_fetch_and_add(&call->waits[wait], 1);
	return 0;
}
