/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* The birth, the programs and the end of tasks. All but stop_newborn() are always needed. */

/*
 * One object is built with this function and one without, for kernels up to 6.12: to find out that
 * it is missing, libbpf reads the types of every module, which takes CAP_SYS_ADMIN.
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
		return; /* no reader would resume it */
	event->stopped = stop;
	if (stop)
		stop_at_birth(child);
	bpf_ringbuf_submit(event, wake(1));
}

SEC("tp_btf/sched_process_fork")
int on_fork(u64 *ctx)
{
	struct task_struct *parent = (void *)ctx[0], *child = (void *)ctx[1];
	struct member *parent_member = find_member(parent);
	/* The child's cgroup is final here, CLONE_INTO_CGROUP included. */
	u32 slot = slot_of_cgroup(cgroup_of(child));
	bool outside = 0;
	struct event *event;

	if (child->pid != child->tgid) {
		if (parent_member)
			add_newborn(child, parent_member->slot);
		else if (slot)
			add_newborn(child, slot);
		else
			drop_newborn(child);
		return 0;
	}
	if (!slot) {
		slot = parent_member ? parent_member->slot : slot_of_thread(parent);
		outside = 1;
	}
	if (!slot) {
		drop_newborn(child);
		return 0;
	}
	add_newborn(child, slot);
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

/* The status of wait(2): all threads have one status when one of them ended all. */
INLINE s32 exit_status(struct task_struct *task)
{
	if (task->signal->flags & SIGNAL_GROUP_EXIT)
		return task->signal->group_exit_code;
	return task->group_leader->exit_code;
}

/* Threads that end together may each find that no other one lives: the first one counts. */
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

/* Before 6.13 a program signals only the current task: the child stops itself at its first run. */
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
