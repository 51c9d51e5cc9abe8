/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* The programs of memory: charges, stalls, OOM kills. */

INLINE u64 cgroup_of_memory(struct mem_cgroup *memory)
{
	return memory->css.cgroup->kn->id;
}

/* Exact: every charge passes here, a huge page as one charge of many pages. */
SEC("fexit/try_charge_memcg")
int on_charge(u64 *ctx)
{
	struct mem_cgroup *memory = (void *)ctx[0];
	struct settings *reader = get_settings();
	u32 pages = ctx[2], slot;

	if ((s32)ctx[3] || !reader) /* refused */
		return 0;
	slot = slot_of_thread(bpf_get_current_task_btf());
	if (!slot)
		slot = slot_of_cgroup(cgroup_of_memory(memory));
	if (slot)
		add(slot, MEMORY_CHARGED_BYTES, (u64)pages * reader->page_bytes);
	return 0;
}

enum stall { RECLAIM, HIGH };

/* A task can be in both stalls at once: throttling by memory.high reclaims too. */
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

/* Up to 6.12 the kernel calls the function also when there is nothing to do. */
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

/* Where on_oom does not attach; the argument is the task since 6.9, a pid before. */
SEC("tp_btf/mark_victim")
int on_oom_mark(u64 *ctx)
{
	report_oom((void *)ctx[0]);
	return 0;
}
