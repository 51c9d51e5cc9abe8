/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* Events for the reader, through a ring buffer. */
#include "members.bpf.h"

struct {
	MAP_IS(type, BPF_MAP_TYPE_RINGBUF);
	MAP_IS(max_entries, RING_BYTES);
} events SEC(".maps");

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

/* An urgent event wakes the reader; the reader finds the others when it polls. */
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
