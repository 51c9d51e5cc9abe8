/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * Declarations of the compiler's and of the kernel's stable interface: section and map notation, the
 * BPF helpers that the programs call (numbers: enum bpf_func_id of include/uapi/linux/bpf.h), and
 * CO-RE.  Declared here so that the programs build with a compiler alone.
 */
#ifndef AGENTCGROUP_HELPERS_H
#define AGENTCGROUP_HELPERS_H

typedef unsigned char u8;
typedef unsigned int u32;
typedef int s32;
typedef unsigned long long u64;
typedef long long s64;
typedef _Bool bool;

#define NULL ((void *)0)
#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define KFUNC extern __attribute__((section(".ksyms")))

/* Maps are described by types alone, as libbpf reads them from BTF. */
#define MAP_IS(name, number) int (*name)[number]
#define MAP_HAS(name, type) type *name

enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_RINGBUF = 27,

	BPF_F_NO_PREALLOC = 1 << 0,
	BPF_F_MMAPABLE = 1 << 10,

	BPF_ANY = 0,
	BPF_NOEXIST = 1,

	BPF_RB_NO_WAKEUP = 1 << 0,
	BPF_RB_FORCE_WAKEUP = 1 << 1,
	BPF_RB_AVAIL_DATA = 0,
};

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value,
					 u64 flags) = (void *)2;
static long (*const bpf_map_delete_elem)(void *map, const void *key) = (void *)3;
static u64 (*const bpf_ktime_get_ns)(void) = (void *)5;
static u64 (*const bpf_get_current_pid_tgid)(void) = (void *)14;
static u64 (*const bpf_skb_cgroup_id)(void *skb) = (void *)79;
static long (*const bpf_send_signal)(u32 signal) = (void *)109;
static long (*const bpf_probe_read_kernel)(void *to, u32 size, const void *from) = (void *)113;
static long (*const bpf_probe_read_kernel_str)(void *to, u32 size, const void *from) = (void *)115;
static void *(*const bpf_ringbuf_reserve)(void *ring, u64 size, u64 flags) = (void *)131;
static void (*const bpf_ringbuf_submit)(void *data, u64 flags) = (void *)132;
static u64 (*const bpf_ringbuf_query)(void *ring, u64 what) = (void *)134;
static struct task_struct *(*const bpf_get_current_task_btf)(void) = (void *)158;
static long (*const bpf_loop)(u32 count, void *step, void *context, u64 flags) = (void *)181;

/* A field in the running kernel: its offset (BPF_FIELD_BYTE_OFFSET), and whether it exists. */
#define OFFSET(type, field) __builtin_preserve_field_info(((type *)0)->field, 0)
#define EXISTS(field) __builtin_preserve_field_info(field, 2)

/* Read a field through a pointer without a type for the verifier; 0 for an invalid pointer. */
#define READ(pointer, field)                                                                \
	({                                                                                  \
		typeof(pointer) from_ = (pointer);                                          \
		typeof(from_->field) value_;                                                \
		bpf_probe_read_kernel(&value_, sizeof(value_),                              \
				      __builtin_preserve_access_index(&from_->field));      \
		value_;                                                                     \
	})

#endif
