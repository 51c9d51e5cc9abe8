/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* Programs that the reader itself runs; always needed. */

/* Runs when the reader reads its link: counts what living tasks have used up to now. */
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

/* Runs once, in the reader: writes what this kernel has, and the reader's PID namespace. */
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
