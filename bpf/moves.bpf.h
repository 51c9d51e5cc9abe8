/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* Cgroups that are made and removed, and processes that move between them; always needed. */

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

/* One thread of a process that has moved; `slot` is that of its cgroup, 0 for no call's. */
INLINE void move_thread(struct task_struct *task, u32 slot)
{
	u64 key = (u64)task;
	struct member *known = bpf_map_lookup_elem(&members, &key);
	struct member fresh = {.slot = slot};
	struct totals now;

	if (known && !call_of(known->slot))
		known = NULL;
	if (known && (!slot || known->slot == slot)) {
		known->stop_pending = 0; /* moved in before its first instruction, or moved away */
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
		return 1; /* the end of the list */
	move_thread((void *)(walk->node - OFFSET(struct task_struct, thread_node)), walk->slot);
	walk->node = (u64)READ((struct list_head *)walk->node, next);
	return 0;
}

/* The most threads of a process that are moved; further ones stay where they were counted. */
#define THREADS_MOVED 4096

/* No thread of the process is born or ends meanwhile: cgroup_attach_lock(). */
INLINE void move_threads(struct task_struct *leader, u32 slot)
{
	u64 head = (u64)READ(leader, signal) + OFFSET(struct signal_struct, thread_head);
	struct walk walk = {.head = head, .slot = slot};

	walk.node = (u64)READ((struct list_head *)head, next);
	bpf_loop(THREADS_MOVED, move_next, &walk, 0);
}

/* The kernel calls it once for a process, with its leader, after the move. */
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
