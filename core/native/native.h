/*
 * What the C files of agentcgroup._native share: the plan of one child, and the functions that one
 * file defines for the others.
 *
 * agentcgroup._native starts processes that are born inside a given cgroup. The parent makes the
 * child with clone3(CLONE_VM | CLONE_VFORK | CLONE_INTO_CGROUP): the child borrows the parent's
 * memory until it execs, as with vfork, so the size of the parent costs nothing, and the kernel
 * links the child into the cgroup before the child runs its first instruction. Writing a pid to
 * cgroup.procs instead takes the kernel's threadgroup rwsem for writing and so waits for an RCU
 * grace period, about 10 ms (kernel/cgroup/cgroup.c, cgroup_attach_lock).
 *
 * Where clone3 is missing (before Linux 5.7) or refused (Docker's default seccomp profile answers
 * ENOSYS), the parent makes the child with vfork, and the child writes "0" to cgroup.procs before
 * it does anything else. A real fork (os.fork, preexec_fn, libuv) does the same in a
 * pthread_atfork handler.
 *
 *   popen.c        subprocess.Popen   \
 *   posix_spawn.c  os.posix_spawn      > fill in a struct child > launch.c makes the child
 *   system.c       os.system          /                            child.c: its steps until exec
 *   fork.c         real forks
 *   arguments.c    Python objects to C values
 *   usage.c        CPU time and memory of this thread
 *   builtin.c      builtins that call a Python function
 *   module.c       the module
 *
 * Rules of the borrowed memory: the parent converts and checks everything before the clone; the
 * child allocates nothing, takes no lock, and calls only async-signal-safe functions. The parent
 * blocks all signals around the clone and the child resets the handlers, so that no handler of the
 * parent runs in the child. The parent releases the GIL: a child born into a frozen or throttled
 * cgroup suspends its parent's thread until it execs, and must not suspend the threads that would
 * thaw the cgroup.
 *
 * The steps of each kind of child follow the documented behaviour of subprocess.Popen,
 * os.posix_spawn (POSIX posix_spawn) and os.system (POSIX system).
 */
#ifndef AGENTCGROUP_NATIVE_H
#define AGENTCGROUP_NATIVE_H

#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <sys/types.h>

/* -fvisibility=hidden covers definitions only; this makes calls between the files direct, too. */
#pragma GCC visibility push(hidden)

/* Newer than many installed headers; the numbers are ABI and the same on every architecture. */
#ifndef SYS_clone3
#define SYS_clone3 435
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#define AGC_CLONE_CLEAR_SIGHAND 0x100000000ULL /* Linux 5.5 */
#define AGC_CLONE_INTO_CGROUP 0x200000000ULL   /* Linux 5.7 */

struct clone3_arguments { /* struct clone_args of linux/sched.h, CLONE_ARGS_SIZE_VER2 */
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal;
    uint64_t stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};

/* The status of a child that may not run outside its cgroup: a shell's for "found, but could not
 * be executed". */
#define EXIT_REFUSED 126
#define EXIT_NOT_FOUND 127

/* os.posix_spawn's attributes; core/spawn/spawn_request.py has the same numbers. */
enum {
    ATTR_SETPGROUP = 1,
    ATTR_RESETIDS = 2,
    ATTR_SETSID = 4,
    ATTR_SETSIGMASK = 8,
    ATTR_SETSIGDEF = 16,
    ATTR_SETSCHEDPARAM = 32,
    ATTR_SETSCHEDULER = 64,
};

struct action; /* one step of os.posix_spawn's file_actions: posix_spawn.c */

/* The plan of one child: the parent fills it in, the child writes its errors into it. */
struct child {
    int cgroup_fd; /* directory of the cgroup; -1: the parent's cgroup */
    int procs_fd;  /* its cgroup.procs where the child has to join by itself, else -1 */
    int by_clone3;
    void (*steps)(struct child *); /* from birth to exec; returns only if the exec failed */
    sigset_t mask;                 /* the child's signal mask */

    char **executables; /* tried in this order */
    char **argv;
    char **envp; /* NULL: the parent's */

    /* subprocess.Popen */
    int p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite;
    int errpipe_read, errpipe_write;
    int close_fds, restore_signals, setsid, pgid, umask;
    const char *cwd;
    const int *keep; /* ascending */
    Py_ssize_t keep_count;

    /* os.posix_spawn */
    const struct action *actions;
    Py_ssize_t action_count;
    int attributes, pgroup, sched_policy, sched_priority;
    sigset_t default_signals;

    /* written by the child */
    volatile int place_errno; /* why the child could not join the cgroup */
    volatile int exec_errno;  /* why the child could not execute the program */
};

/* child.c: async-signal-safe, for the child only. */
void default_signal(int sig);
void drop_signal_handlers(void);
int join_cgroup(int procs_fd);
int keep_over_exec(int fd);
int put_at(int fd, int target);
void close_span(unsigned int first, unsigned int last);
void execute(const struct child *child, const char *path);

/* launch.c */
extern PyObject *PlacementError;
pid_t launch(struct child *child);
void reap(pid_t pid);
int open_procs(int cgroup_fd);
PyObject *raise_placement_error(int error);

/* posix_spawn.c; os.system starts its shell with the same steps. */
void posix_spawn_steps(struct child *child);

/* fork.c: the pthread_atfork handler. */
void place_forked_child(void);

/* arguments.c */

/* A NULL-terminated array of C strings, and the Python objects that own the characters. */
struct strings {
    PyObject *owners;
    char **items;
};

int strings_from(struct strings *strings, PyObject *sequence, int convert);
void strings_free(struct strings *strings);
int *descriptors_from(PyObject *tuple);
void mask_to_set(unsigned long long mask, sigset_t *set);
unsigned long long set_to_mask(const sigset_t *set);

/* The Python functions of each file, for module.c. */
extern PyMethodDef launch_methods[], popen_methods[], posix_spawn_methods[], system_methods[],
    fork_methods[], usage_methods[], builtin_methods[];

#pragma GCC visibility pop

#endif
