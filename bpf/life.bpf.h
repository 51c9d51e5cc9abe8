/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* The programs that follow the members: always needed, but for the last one. */

/*
 * There is an object with it and one without, for kernels up to 6.12: to find out that a function
 * is missing, libbpf looks into every module's types, which takes CAP_SYS_ADMIN.
 */
#ifdef SIGNAL_TASK
KFUNC int bpf_send_signal_task(struct task_struct *task, int signal, enum pid_type type,
			       u64 value);
#endif

/* Stop a child before its first instruction; without SIGNAL_TASK, stop_newborn() does it. */
INLINE void stop_at_birth(struct task_struct *child)
{
#ifdef SIGNAL_TASK
	bpf_send_signal_task(child, SIGSTOP, PIDTYPE_TGID, 0);
#else
	struct member *member = find_member(child);

	if (member)
		member->stop_pending = 1;
#endif
}

INLINE void report_escape(struct task_struct *child, u32 slot)
{
	struct settings *reader = get_settings();
	bool stop = reader && reader->stop;
	struct event *event;

	add(slot, ESCAPES, 1);
	event = begin_event(ESCAPE, slot, child);
	if (!event)
		return; /* nobody would let it go on */
	event->stopped = stop;
	if (stop)
		stop_at_birth(child);
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
			welcome_newborn(child, kin->slot);
		else if (slot)
			welcome_newborn(child, slot);
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
	welcome_newborn(child, slot);
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

/* Several threads that end together may each find that no other one lives. */
INLINE bool ends_process(struct task_struct *task)
{
	struct member *first = member_of(task->group_leader);

	if (task->signal->live.counter)
		return 0;
	return !first || !__sync_lock_test_and_set(&first->ended, 1);
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
	if (!ends_process(task))
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
	if (known && (!slot || known->slot == slot)) {
		known->stop_pending = 0; /* home before its first instruction, or on its way */
		return; /* a member as before */
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

/* The kernel lets no thread of the process be born or end meanwhile: cgroup_attach_lock(). */
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

/* Runs once, by the reader itself: what this kernel has, and which process ids the reader knows. */
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
#ifdef SIGNAL_TASK
	reader->features |= HAS_SIGNAL_TASK;
#endif
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

	if (member && member->stop_pending) {
		member->stop_pending = 0;
		bpf_send_signal(SIGSTOP);
	}
	return 0;
}
