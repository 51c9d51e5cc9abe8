/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * The kernel's types with only those fields that the programs read.  The loader finds the offset of
 * a field in the running kernel's BTF (CO-RE), so the names and types of fields matter, and their
 * order and completeness do not.
 */
#ifndef AGENTCGROUP_VMLINUX_H
#define AGENTCGROUP_VMLINUX_H

#include "helpers.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
	int counter;
} atomic_t;

struct list_head {
	struct list_head *next;
};

struct kernfs_node {
	u64 id;
};

struct cgroup_root {
	int hierarchy_id;
};

struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
};

struct cgroup {
	struct cgroup_subsys_state self;
	struct kernfs_node *kn;
	struct cgroup_root *root;
};

struct css_set {
	struct cgroup *dfl_cgrp;
};

struct ns_common {
	u32 inum;
};

struct pid_namespace {
	struct ns_common ns;
};

struct upid {
	int nr;
	struct pid_namespace *ns;
};

struct pid {
	u32 level;
	struct upid numbers[1];
};

struct sched_entity {
	u64 sum_exec_runtime;
};

struct sched_info {
	u64 run_delay;
};

struct task_io_accounting {
	u64 read_bytes;
	u64 write_bytes;
};

struct signal_struct {
	atomic_t live;
	u32 flags;
	int group_exit_code;
	struct list_head thread_head;
};

struct task_struct {
	int pid;
	int tgid;
	int exit_code;
	char comm[16];
	struct task_struct *group_leader;
	struct task_struct *real_parent;
	struct pid *thread_pid;
	struct signal_struct *signal;
	struct list_head thread_node;
	struct css_set *cgroups;
	struct sched_entity se;
	struct sched_info sched_info;
	unsigned long min_flt;
	unsigned long maj_flt;
	struct task_io_accounting ioac;
	u32 memcg_nr_pages_over_high;
};

struct linux_binprm {
	const char *filename;
};

struct mem_cgroup {
	struct cgroup_subsys_state css;
};

struct blkcg {
	struct cgroup_subsys_state css;
};

struct blkcg_gq {
	struct blkcg *blkcg;
};

struct bvec_iter {
	u32 bi_size;
};

struct bio {
	u32 bi_opf;
	struct bvec_iter bi_iter;
	struct blkcg_gq *bi_blkg;
};

struct bpf_iter_meta {
	u64 seq_num;
};

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
};

#pragma clang attribute pop

/* The view that programs of sockets have of a packet: fixed by include/uapi/linux/bpf.h. */
struct __sk_buff {
	u32 len;
};

enum {
	SIGSTOP = 19, /* but on MIPS, Alpha, SPARC and PA-RISC */
	SIGNAL_GROUP_EXIT = 4, /* include/linux/sched/signal.h */
};

enum pid_type {
	PIDTYPE_TGID = 1,
};

#endif
