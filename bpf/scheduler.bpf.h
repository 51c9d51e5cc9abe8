/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* The program of the scheduler, in full detail only: every context switch runs it. */

INLINE u32 magnitude(u64 us)
{
	u32 result = 0;

#pragma clang loop unroll(full)
	for (int i = 0; i < WAITS - 1; i++)
		result += us >> i != 0;
	return result;
}

/* When a member leaves the CPU, the length of its last wait for the CPU is known. */
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
