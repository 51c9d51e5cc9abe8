/*
 * agentcgroup._native: start processes that are born inside a given cgroup.
 *
 * A child is made with clone3(CLONE_VM | CLONE_VFORK | CLONE_INTO_CGROUP): it borrows our memory
 * until it execs, as with vfork, so the size of this process costs nothing, and the kernel links
 * it into the cgroup before it runs its first instruction. Writing a pid to cgroup.procs instead
 * takes the kernel's threadgroup rwsem for writing and so waits for an RCU grace period, about
 * 10 ms (kernel/cgroup/cgroup.c, cgroup_attach_lock).
 *
 * Where clone3 is missing (before Linux 5.7) or refused (Docker's default seccomp profile answers
 * ENOSYS), the child is made with vfork and writes "0" to cgroup.procs before anything else.
 * Real forks (os.fork, preexec_fn, libuv) go the same way in a pthread_atfork handler.
 *
 * Rules of the borrowed memory: everything is converted and checked before the clone; the child
 * allocates nothing, takes no lock, and calls only what is async-signal-safe. Signals are blocked
 * around it and its handlers reset, so that none of ours runs in it. The GIL is released: a child
 * born into a frozen or throttled cgroup holds its parent up until it execs, and must not hold up
 * the threads that would thaw it.
 *
 * The steps of each kind of child follow the documented behaviour of subprocess.Popen,
 * os.posix_spawn (POSIX posix_spawn) and os.system (POSIX system).
 */
#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

/* Newer than many installed headers; the numbers are ABI and the same on every architecture. */
#ifndef SYS_clone3
#define SYS_clone3 435
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#define AGC_CLONE_CLEAR_SIGHAND 0x100000000ULL /* Linux 5.5 */
#define AGC_CLONE_INTO_CGROUP 0x200000000ULL   /* Linux 5.7 */

/* What a shell answers for "found, but could not be run": a child that may not run outside. */
#define EXIT_REFUSED 126
#define EXIT_NOT_FOUND 127

static PyObject *PlacementError;

/* ------------------------------------------------------------------ the job of one child --- */

enum action_kind { ACTION_OPEN, ACTION_CLOSE, ACTION_DUP2, ACTION_CLOSEFROM };

/* One step of os.posix_spawn's file_actions. */
struct action {
    int kind;
    int fd;
    int other; /* dup2: the new number; open: the flags */
    mode_t mode;
    const char *path;
};

/* os.posix_spawn's attributes; the numbers are those of core/spawn/arguments.py. */
enum {
    ATTR_SETPGROUP = 1,
    ATTR_RESETIDS = 2,
    ATTR_SETSID = 4,
    ATTR_SETSIGMASK = 8,
    ATTR_SETSIGDEF = 16,
    ATTR_SETSCHEDPARAM = 32,
    ATTR_SETSCHEDULER = 64,
};

/* What one child has to do, filled in by the parent; the child answers in the same memory. */
struct job {
    int cgroup_fd; /* directory of the cgroup; -1: stay in ours */
    int procs_fd;  /* its cgroup.procs where the child must join by itself, else -1 */
    int by_clone3;
    void (*steps)(struct job *);
    sigset_t mask; /* the child's signal mask */

    char **executables; /* tried in this order */
    char **argv;
    char **envp; /* NULL: ours */

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

    /* answers */
    volatile int place_errno; /* why the child could not join the cgroup */
    volatile int exec_errno;  /* why it could not become the program */
};

/* --------------------------------------------------------------------- in the child only --- */

static void
default_signal(int sig)
{
    struct sigaction action = {.sa_handler = SIG_DFL};
    sigaction(sig, &action, NULL);
}

/* A handler of the parent's would run on the parent's memory. Ignored signals stay ignored. */
static void
drop_signal_handlers(void)
{
    for (int sig = 1; sig < NSIG; sig++) {
        struct sigaction action;
        if (sigaction(sig, NULL, &action) == 0 && action.sa_handler != SIG_DFL
            && action.sa_handler != SIG_IGN) {
            default_signal(sig);
        }
    }
}

/* Move the calling process into the cgroup whose cgroup.procs this is. */
static int
join_cgroup(int procs_fd)
{
    ssize_t written;
    do {
        written = write(procs_fd, "0", 1);
    } while (written < 0 && errno == EINTR);
    return written == 1 ? 0 : -1;
}

static int
keep_over_exec(int fd)
{
    int flags = fcntl(fd, F_GETFD);
    return flags < 0 ? -1 : fcntl(fd, F_SETFD, flags & ~FD_CLOEXEC);
}

struct directory_entry { /* struct linux_dirent64 */
    uint64_t inode;
    int64_t offset;
    unsigned short length;
    unsigned char type;
    char name[];
};

/* Close first..last by the list of /proc/self/fd; readdir() would allocate. */
static int
close_listed(unsigned int first, unsigned int last)
{
    int directory = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0) {
        return -1;
    }
    char buffer[4096] __attribute__((aligned(8)));
    long size;
    while ((size = syscall(SYS_getdents64, directory, buffer, sizeof(buffer))) > 0) {
        for (long at = 0; at < size;) {
            struct directory_entry *entry = (struct directory_entry *)(buffer + at);
            at += entry->length;
            if (entry->name[0] == '.') {
                continue;
            }
            unsigned int fd = 0;
            for (const char *digit = entry->name; *digit; digit++) {
                fd = fd * 10 + (unsigned int)(*digit - '0');
            }
            if (fd >= first && fd <= last && (int)fd != directory) {
                close((int)fd);
            }
        }
    }
    close(directory);
    return size == 0 ? 0 : -1;
}

/* Close first..last: close_range (Linux 5.9), else what /proc lists, else one by one. */
static void
close_span(unsigned int first, unsigned int last)
{
    if (first > last || syscall(SYS_close_range, first, last, 0) == 0
        || close_listed(first, last) == 0) {
        return;
    }
    struct rlimit limit;
    unsigned int end = 65536;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < end) {
        end = (unsigned int)limit.rlim_cur;
    }
    for (unsigned int fd = first; fd <= last && fd < end; fd++) {
        close((int)fd);
    }
}

static void
close_all_but(const struct job *job)
{
    unsigned int first = 3;
    for (Py_ssize_t i = 0; i < job->keep_count; i++) {
        unsigned int kept = (unsigned int)job->keep[i];
        if (kept < first) {
            continue;
        }
        if (kept > first) {
            close_span(first, kept - 1);
        }
        first = kept + 1;
    }
    close_span(first, INT_MAX);
}

static void
execute(const struct job *job, const char *path)
{
    if (job->envp != NULL) {
        execve(path, job->argv, job->envp);
    }
    else {
        execv(path, job->argv);
    }
}

/* dup2 that also works where both are the same: the descriptor must survive the exec. */
static int
put_at(int fd, int target)
{
    if (fd == -1) {
        return 0;
    }
    return fd == target ? keep_over_exec(fd) : dup2(fd, target);
}

/* Lift *fd above `limit` where putting others at 0, 1 and 2 would overwrite it. */
static int
lift(int *fd, int limit)
{
    if (*fd < 0 || *fd > limit) {
        return 0;
    }
    int lifted = fcntl(*fd, F_DUPFD_CLOEXEC, limit + 1);
    if (lifted < 0) {
        return -1;
    }
    *fd = lifted;
    return 0;
}

static int
arrange_pipes(struct job *job)
{
    for (Py_ssize_t i = 0; i < job->keep_count; i++) {
        if (job->keep[i] != job->errpipe_write && keep_over_exec(job->keep[i]) < 0) {
            return -1;
        }
    }
    const int parents[] = {job->p2cwrite, job->c2pread, job->errread, job->errpipe_read};
    for (size_t i = 0; i < sizeof(parents) / sizeof(*parents); i++) {
        if (parents[i] != -1 && close(parents[i]) < 0) {
            return -1;
        }
    }
    if (lift(&job->c2pwrite, 0) < 0 || lift(&job->errwrite, 1) < 0) {
        return -1;
    }
    if (put_at(job->p2cread, 0) < 0 || put_at(job->c2pwrite, 1) < 0
        || put_at(job->errwrite, 2) < 0) {
        return -1;
    }
    return 0;
}

static int
restore_python_signals(void)
{
    /* Python ignores these at its start and promises restore_signals=True to undo it. */
    default_signal(SIGPIPE);
#ifdef SIGXFSZ
    default_signal(SIGXFSZ);
#endif
    return 0;
}

/* Tell Popen what went wrong, in the one form it reads: "OSError:<hex errno>:<where>". */
static void
report_to_popen(const struct job *job, int error, const char *where)
{
    static const char digits[] = "0123456789abcdef";
    char text[48] = "OSError:";
    size_t length = strlen(text);
    int shift = 28;
    while (shift > 0 && ((unsigned)error >> shift) == 0) {
        shift -= 4;
    }
    for (; shift >= 0; shift -= 4) {
        text[length++] = digits[((unsigned)error >> shift) & 15];
    }
    text[length++] = ':';
    while (*where && length < sizeof(text)) {
        text[length++] = *where++;
    }
    ssize_t ignored = write(job->errpipe_write, text, length);
    (void)ignored;
}

/* Set by `set_chdir_report`: newer subprocess modules tell a bad cwd from other early errors. */
static const char *chdir_report = "noexec";

/* The child of subprocess.Popen, up to the exec. */
static void
popen_steps(struct job *job)
{
    if (arrange_pipes(job) < 0) {
        report_to_popen(job, errno, "noexec");
        return;
    }
    if (job->cwd != NULL && chdir(job->cwd) < 0) {
        report_to_popen(job, errno, chdir_report);
        return;
    }
    if (job->umask >= 0) {
        umask((mode_t)job->umask);
    }
    if (job->restore_signals) {
        restore_python_signals();
    }
    sigprocmask(SIG_SETMASK, &job->mask, NULL);
    if ((job->setsid && setsid() < 0) || (job->pgid >= 0 && setpgid(0, job->pgid) < 0)) {
        report_to_popen(job, errno, "noexec");
        return;
    }
    if (job->close_fds) {
        close_all_but(job);
    }
    int error = 0;
    for (char **path = job->executables; *path != NULL; path++) {
        execute(job, *path);
        if (errno != ENOENT && errno != ENOTDIR && error == 0) {
            error = errno;
        }
    }
    report_to_popen(job, error ? error : errno, "");
}

static int
do_action(const struct action *action)
{
    switch (action->kind) {
    case ACTION_CLOSE:
        close(action->fd); /* POSIX: closing what is not open is no error here */
        return 0;
    case ACTION_DUP2:
        return put_at(action->fd, action->other);
    case ACTION_CLOSEFROM:
        close_span((unsigned int)action->fd, INT_MAX);
        return 0;
    default:
        break;
    }
    int fd = open(action->path, action->other, action->mode);
    if (fd < 0 || fd == action->fd) {
        return fd;
    }
    if (dup2(fd, action->fd) < 0) {
        return -1;
    }
    return close(fd);
}

/* The raw calls: glibc's wrappers would signal every thread of the parent to follow. */
static int
reset_ids(void)
{
    return syscall(SYS_setresgid, -1, getgid(), -1) == 0
                   && syscall(SYS_setresuid, -1, getuid(), -1) == 0
               ? 0
               : -1;
}

/* posix_spawn's attributes, in the order of glibc: signals, scheduling, session, group, ids. */
static int
apply_attributes(const struct job *job)
{
    int attributes = job->attributes;
    if (attributes & ATTR_SETSIGDEF) {
        for (int sig = 1; sig < NSIG; sig++) {
            if (sigismember(&job->default_signals, sig) == 1) {
                default_signal(sig);
            }
        }
    }
    struct sched_param param = {.sched_priority = job->sched_priority};
    if (attributes & ATTR_SETSCHEDULER) {
        if (sched_setscheduler(0, job->sched_policy, &param) < 0) {
            return -1;
        }
    }
    else if ((attributes & ATTR_SETSCHEDPARAM) && sched_setparam(0, &param) < 0) {
        return -1;
    }
    if ((attributes & ATTR_SETSID) && setsid() < 0) {
        return -1;
    }
    if ((attributes & ATTR_SETPGROUP) && setpgid(0, job->pgroup) < 0) {
        return -1;
    }
    return (attributes & ATTR_RESETIDS) ? reset_ids() : 0;
}

/* The child of os.posix_spawn and os.system, up to the exec. */
static void
posix_spawn_steps(struct job *job)
{
    if (apply_attributes(job) < 0) {
        job->exec_errno = errno;
        return;
    }
    for (Py_ssize_t i = 0; i < job->action_count; i++) {
        if (do_action(&job->actions[i]) < 0) {
            job->exec_errno = errno;
            return;
        }
    }
    sigprocmask(SIG_SETMASK, &job->mask, NULL);
    int denied = 0;
    for (char **path = job->executables; *path != NULL; path++) {
        execute(job, *path);
        if (errno == EACCES) {
            denied = EACCES; /* another folder of PATH may hold one that runs */
        }
        else if (errno != ENOENT && errno != ENOTDIR && errno != ENODEV && errno != ESTALE
                 && errno != ETIMEDOUT) {
            job->exec_errno = errno;
            return;
        }
    }
    job->exec_errno = denied ? denied : errno;
}

static int
child_main(void *argument)
{
    struct job *job = argument;
    if (job->procs_fd >= 0) {
        if (join_cgroup(job->procs_fd) < 0) {
            job->place_errno = errno;
            return EXIT_REFUSED;
        }
    }
    if (!job->by_clone3) {
        drop_signal_handlers(); /* else CLONE_CLEAR_SIGHAND has done it */
    }
    job->steps(job);
    return EXIT_NOT_FOUND;
}

/* -------------------------------------------------------------------- making the child --- */

struct clone3_arguments { /* struct clone_args of linux/sched.h, CLONE_ARGS_SIZE_VER2 */
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal;
    uint64_t stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};

/* The child shares our memory and so needs a stack of its own, and must never return into a frame
 * of ours: its registers go from the system call to child_main in assembly.
 *   long agc_clone3(struct clone3_arguments *, size_t size, int (*child)(void *), void *) */
#if defined(__x86_64__)
#define HAVE_CLONE3_CHILD 1
__asm__(".pushsection .text\n"
        ".hidden agc_clone3\n.globl agc_clone3\n.type agc_clone3, @function\n"
        "agc_clone3:\n"
        "    movq %rdx, %r8\n" /* rcx and r11 are lost in a system call; r8 and r9 are not */
        "    movq %rcx, %r9\n"
        "    movl $435, %eax\n"
        "    syscall\n"
        "    testq %rax, %rax\n"
        "    jz 1f\n"
        "    ret\n"
        "1:  xorl %ebp, %ebp\n"
        "    movq %r9, %rdi\n"
        "    callq *%r8\n"
        "    movl %eax, %edi\n"
        "    movl $231, %eax\n" /* exit_group */
        "    syscall\n"
        "    hlt\n"
        ".size agc_clone3, . - agc_clone3\n"
        ".popsection\n");
#elif defined(__aarch64__)
#define HAVE_CLONE3_CHILD 1
__asm__(".pushsection .text\n"
        ".hidden agc_clone3\n.globl agc_clone3\n.type agc_clone3, %function\n"
        "agc_clone3:\n"
        "    mov x8, #435\n"
        "    svc #0\n"
        "    cbz x0, 1f\n"
        "    ret\n"
        "1:  mov x29, #0\n"
        "    mov x30, #0\n"
        "    mov x0, x3\n"
        "    blr x2\n"
        "    mov x8, #94\n" /* exit_group */
        "    svc #0\n"
        "    brk #1\n"
        ".size agc_clone3, . - agc_clone3\n"
        ".popsection\n");
#else
#define HAVE_CLONE3_CHILD 0
#endif

enum spawn_mode { MODE_UNKNOWN, MODE_CLONE3, MODE_VFORK };

static enum spawn_mode mode = MODE_UNKNOWN;
static int mode_errno = 0; /* what clone3 answered where the mode is MODE_VFORK */

/* Ask the kernel once, with a cgroup fd that cannot be: EBADF means that it knew the question.
 * No child can come of it, so it needs no stack. */
static enum spawn_mode
current_mode(void)
{
    if (mode == MODE_UNKNOWN) {
#if HAVE_CLONE3_CHILD
        struct clone3_arguments arguments = {
            .flags = CLONE_VM | CLONE_VFORK | AGC_CLONE_CLEAR_SIGHAND | AGC_CLONE_INTO_CGROUP,
            .exit_signal = SIGCHLD,
            .cgroup = INT_MAX,
        };
        syscall(SYS_clone3, &arguments, sizeof(arguments));
        mode_errno = errno == EBADF ? 0 : errno;
#else
        mode_errno = ENOSYS;
#endif
        mode = mode_errno == 0 ? MODE_CLONE3 : MODE_VFORK;
    }
    return mode;
}

#if HAVE_CLONE3_CHILD
extern long agc_clone3(struct clone3_arguments *, size_t, int (*)(void *), void *);

/* The stack is an array in this frame, which stands still until the child has gone. */
static __attribute__((noinline)) pid_t
clone3_child(struct job *job)
{
    char stack[32 * 1024] __attribute__((aligned(64)));
    struct clone3_arguments arguments = {
        .flags = CLONE_VM | CLONE_VFORK | AGC_CLONE_CLEAR_SIGHAND,
        .exit_signal = SIGCHLD,
        .stack = (uint64_t)(uintptr_t)stack,
        .stack_size = sizeof(stack),
    };
    if (job->cgroup_fd >= 0) {
        arguments.flags |= AGC_CLONE_INTO_CGROUP;
        arguments.cgroup = (uint64_t)job->cgroup_fd;
    }
    long pid = agc_clone3(&arguments, sizeof(arguments), child_main, job);
    if (pid < 0) {
        errno = (int)-pid;
        return -1;
    }
    return (pid_t)pid;
}
#endif

static __attribute__((noinline)) pid_t
vfork_child(struct job *job)
{
    pid_t pid = vfork();
    if (pid == 0) {
        _exit(child_main(job));
    }
    return pid;
}

/* Errors of clone3 that speak of the cgroup, not of the process (cgroup_css_set_fork). */
static int
is_placement_errno(int error)
{
    return error == EACCES || error == EBADF || error == EBUSY || error == ENODEV
           || error == ENOENT || error == EOPNOTSUPP || error == EPERM;
}

static void
reap(pid_t pid)
{
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
    }
}

static PyObject *
raise_placement_error(int error)
{
    PyObject *arguments = Py_BuildValue("(is)", error, strerror(error));
    if (arguments != NULL) {
        PyErr_SetObject(PlacementError, arguments);
        Py_DECREF(arguments);
    }
    return NULL;
}

static int
open_procs(int cgroup_fd)
{
    return openat(cgroup_fd, "cgroup.procs", O_WRONLY | O_CLOEXEC);
}

/* Make the child of `job`. -1 with a Python error set: PlacementError or OSError. A child that
 * could not exec is a child all the same: see job->exec_errno. */
static pid_t
launch(struct job *job)
{
    job->by_clone3 = current_mode() == MODE_CLONE3;
    job->procs_fd = -1;
    if (!job->by_clone3 && job->cgroup_fd >= 0
        && (job->procs_fd = open_procs(job->cgroup_fd)) < 0) {
        raise_placement_error(errno);
        return -1;
    }
    PyThreadState *thread = PyEval_SaveThread();
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    if (!(job->attributes & ATTR_SETSIGMASK)) {
        job->mask = before;
    }
    pid_t pid;
#if HAVE_CLONE3_CHILD
    pid = job->by_clone3 ? clone3_child(job) : vfork_child(job);
#else
    pid = vfork_child(job);
#endif
    int error = errno;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (job->procs_fd >= 0) {
        close(job->procs_fd);
    }
    if (pid > 0 && job->place_errno) {
        reap(pid);
    }
    PyEval_RestoreThread(thread);

    if (pid > 0 && job->place_errno) {
        raise_placement_error(job->place_errno);
        return -1;
    }
    if (pid < 0 && job->by_clone3 && is_placement_errno(error)) {
        raise_placement_error(error);
    }
    else if (pid < 0) {
        errno = error;
        PyErr_SetFromErrno(PyExc_OSError);
    }
    return pid;
}

/* ------------------------------------------------------------------- arguments from Python --- */

/* A NULL-terminated array of C strings, and the Python objects they live in. */
struct strings {
    PyObject *owners;
    char **items;
};

static void
strings_free(struct strings *strings)
{
    Py_XDECREF(strings->owners);
    PyMem_Free(strings->items);
}

/* From a sequence of bytes; with `convert`, of whatever os.fsencode takes. */
static int
strings_from(struct strings *strings, PyObject *sequence, int convert)
{
    Py_ssize_t count = PySequence_Size(sequence);
    if (count < 0) {
        return -1;
    }
    if (count > (Py_ssize_t)(PY_SSIZE_T_MAX / sizeof(char *)) - 1) {
        PyErr_NoMemory();
        return -1;
    }
    strings->items = PyMem_Malloc(((size_t)count + 1) * sizeof(char *));
    strings->owners = strings->items ? PyTuple_New(count) : PyErr_NoMemory();
    if (strings->owners == NULL) {
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *item = PySequence_GetItem(sequence, i);
        if (item != NULL && convert) {
            PyObject *converted = NULL;
            PyUnicode_FSConverter(item, &converted);
            Py_DECREF(item);
            item = converted;
        }
        /* Without a length to fill in it refuses embedded NULs with a ValueError. */
        if (item == NULL || PyTuple_SetItem(strings->owners, i, item) < 0
            || PyBytes_AsStringAndSize(item, &strings->items[i], NULL) < 0) {
            return -1;
        }
    }
    strings->items[count] = NULL;
    return 0;
}

/* An ascending tuple of file descriptors as C ints. */
static int *
descriptors_from(PyObject *tuple)
{
    Py_ssize_t count = PyTuple_Size(tuple);
    int *descriptors = PyMem_Malloc(((size_t)count + 1) * sizeof(int));
    if (descriptors == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    long previous = -1;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *item = PyTuple_GetItem(tuple, i);
        long fd = PyLong_Check(item) ? PyLong_AsLong(item) : -1;
        if (fd <= previous || fd > INT_MAX) {
            PyErr_Clear();
            PyMem_Free(descriptors);
            PyErr_SetString(PyExc_ValueError, "bad value(s) in fds_to_keep");
            return NULL;
        }
        descriptors[i] = (int)fd;
        previous = fd;
    }
    return descriptors;
}

static void
mask_to_set(unsigned long long mask, sigset_t *set)
{
    sigemptyset(set);
    for (int sig = 1; sig <= 64 && sig < NSIG; sig++) {
        if (mask >> (sig - 1) & 1) {
            sigaddset(set, sig);
        }
    }
}

static unsigned long long
set_to_mask(const sigset_t *set)
{
    unsigned long long mask = 0;
    for (int sig = 1; sig <= 64 && sig < NSIG; sig++) {
        if (sigismember(set, sig) == 1) {
            mask |= 1ULL << (sig - 1);
        }
    }
    return mask;
}

/* ------------------------------------------------------------------------- subprocess.Popen --- */

/* Arguments of _posixsubprocess.fork_exec that stay Python objects until they are converted. */
struct popen_objects {
    PyObject *argv, *executables, *keep, *cwd, *env, *gid, *gids, *uid, *preexec;
    int allow_vfork;
};

/* Its argument list grew: process_group (3.11), allow_vfork (3.11, gone in 3.14).
 * 1: read; 0: not a shape, or not a request, that is done here; -1: error. */
static int
read_popen_arguments(PyObject *args, struct popen_objects *o, struct job *job)
{
    const char *format;
    Py_ssize_t count = PyTuple_Size(args);
    job->pgid = -1;
    o->allow_vfork = 1;
    if (count == 21) {
        int ok = PyArg_ParseTuple(
            args, "OOpO!OOiiiiiiiiiiOOOiO:fork_exec", &o->argv, &o->executables, &job->close_fds,
            &PyTuple_Type, &o->keep, &o->cwd, &o->env, &job->p2cread, &job->p2cwrite,
            &job->c2pread, &job->c2pwrite, &job->errread, &job->errwrite, &job->errpipe_read,
            &job->errpipe_write, &job->restore_signals, &job->setsid, &o->gid, &o->gids, &o->uid,
            &job->umask, &o->preexec);
        return ok ? 1 : -1;
    }
    if (count == 22) {
        format = "OOpO!OOiiiiiiiiiiiOOOiO:fork_exec";
    }
    else if (count == 23) {
        format = "OOpO!OOiiiiiiiiiiiOOOiOp:fork_exec";
    }
    else {
        return 0;
    }
    int ok = PyArg_ParseTuple(
        args, format, &o->argv, &o->executables, &job->close_fds, &PyTuple_Type, &o->keep, &o->cwd,
        &o->env, &job->p2cread, &job->p2cwrite, &job->c2pread, &job->c2pwrite, &job->errread,
        &job->errwrite, &job->errpipe_read, &job->errpipe_write, &job->restore_signals,
        &job->setsid, &job->pgid, &o->gid, &o->gids, &o->uid, &job->umask, &o->preexec,
        &o->allow_vfork);
    return ok ? 1 : -1;
}

/* These need a real fork: they run Python, or calls that are not safe on borrowed memory. */
static int
needs_fork(const struct popen_objects *o)
{
    return o->preexec != Py_None || o->gid != Py_None || o->gids != Py_None || o->uid != Py_None
           || !o->allow_vfork;
}

PyDoc_STRVAR(fork_exec_doc,
"fork_exec(cgroup_fd, args) -> pid | None\n\n"
"_posixsubprocess.fork_exec(*args) with the child born in the cgroup whose directory cgroup_fd\n"
"is. None: nothing was started, these arguments need a real fork.\n\n"
"Raises PlacementError where the cgroup takes no process, else what fork_exec raises.");

static PyObject *
native_fork_exec(PyObject *Py_UNUSED(module), PyObject *all)
{
    PyObject *args, *result = NULL, *cwd = NULL;
    struct job job = {.steps = popen_steps};
    struct popen_objects o;
    struct strings executables = {0}, argv = {0}, envp = {0};
    int *keep = NULL;

    if (!PyArg_ParseTuple(all, "iO!:fork_exec", &job.cgroup_fd, &PyTuple_Type, &args)) {
        return NULL;
    }
    int shape = read_popen_arguments(args, &o, &job);
    if (shape < 0) {
        return NULL;
    }
    if (shape == 0 || needs_fork(&o)) {
        Py_RETURN_NONE;
    }
    if (job.close_fds && job.errpipe_write < 3) {
        PyErr_SetString(PyExc_ValueError, "errpipe_write must be >= 3");
        return NULL;
    }
    if ((keep = descriptors_from(o.keep)) == NULL
        || strings_from(&executables, o.executables, 0) < 0
        || strings_from(&argv, o.argv, 1) < 0
        || (o.env != Py_None && strings_from(&envp, o.env, 0) < 0)
        || (o.cwd != Py_None && !PyUnicode_FSConverter(o.cwd, &cwd))) {
        goto done;
    }
    job.keep = keep;
    job.keep_count = PyTuple_Size(o.keep);
    job.executables = executables.items;
    job.argv = argv.items;
    job.envp = envp.items;
    job.cwd = cwd != NULL ? PyBytes_AsString(cwd) : NULL;

    pid_t pid = launch(&job);
    if (pid > 0) {
        result = PyLong_FromLong(pid);
    }
done:
    Py_XDECREF(cwd);
    PyMem_Free(keep);
    strings_free(&executables);
    strings_free(&argv);
    strings_free(&envp);
    return result;
}

/* ---------------------------------------------------------------------------- os.posix_spawn --- */

/* From a list of (kind, fd, other, mode, path): core/spawn/arguments.py has checked them. */
static struct action *
actions_from(PyObject *list, Py_ssize_t *count)
{
    *count = PyList_Size(list);
    struct action *actions = PyMem_Calloc((size_t)*count + 1, sizeof(*actions));
    if (actions == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    for (Py_ssize_t i = 0; i < *count; i++) {
        struct action *action = &actions[i];
        unsigned long file_mode;
        if (!PyArg_ParseTuple(PyList_GetItem(list, i), "iiiky", &action->kind, &action->fd,
                              &action->other, &file_mode, &action->path)) {
            PyMem_Free(actions);
            return NULL;
        }
        action->mode = (mode_t)file_mode;
    }
    return actions;
}

PyDoc_STRVAR(posix_spawn_doc,
"posix_spawn(cgroup_fd, path, executables, argv, env, actions, attributes, pgroup,\n"
"            sigmask, sigdefault, sched_policy, sched_priority) -> pid\n\n"
"os.posix_spawn with checked arguments (core/spawn/arguments.py) and the child born in the cgroup.\n\n"
"Raises PlacementError where the cgroup takes no process, OSError naming `path` else.");

static PyObject *
native_posix_spawn(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *path, *executable_list, *argv_list, *env_list, *action_list, *result = NULL;
    unsigned long long mask, defaults;
    struct job job = {.steps = posix_spawn_steps};
    struct strings executables = {0}, argv = {0}, envp = {0};
    struct action *actions = NULL;

    if (!PyArg_ParseTuple(args, "iOO!O!OO!iiKKii:posix_spawn", &job.cgroup_fd, &path,
                          &PyList_Type, &executable_list, &PyList_Type, &argv_list, &env_list,
                          &PyList_Type, &action_list, &job.attributes, &job.pgroup, &mask,
                          &defaults, &job.sched_policy, &job.sched_priority)) {
        return NULL;
    }
    mask_to_set(mask, &job.mask);
    mask_to_set(defaults, &job.default_signals);
    if (strings_from(&executables, executable_list, 0) < 0 || strings_from(&argv, argv_list, 0) < 0
        || (env_list != Py_None && strings_from(&envp, env_list, 0) < 0)
        || (actions = actions_from(action_list, &job.action_count)) == NULL) {
        goto done;
    }
    job.executables = executables.items;
    job.argv = argv.items;
    job.envp = envp.items;
    job.actions = actions;

    pid_t pid = launch(&job);
    if (pid > 0 && job.exec_errno) {
        reap(pid);
        errno = job.exec_errno;
        PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, path);
    }
    else if (pid > 0) {
        result = PyLong_FromLong(pid);
    }
done:
    PyMem_Free(actions);
    strings_free(&executables);
    strings_free(&argv);
    strings_free(&envp);
    return result;
}

/* --------------------------------------------------------------------------------- os.system --- */

/* system() ignores SIGINT and SIGQUIT while it waits; with several at once, the first to come
 * stores the dispositions and the last to go restores them. */
static struct {
    pthread_mutex_t lock;
    int users;
    struct sigaction interrupt, quit;
} waiting = {.lock = PTHREAD_MUTEX_INITIALIZER};

PyDoc_STRVAR(hold_signals_doc,
"hold_signals() -> mask\n\n"
"What system() does before its child: block SIGCHLD in this thread, ignore SIGINT and SIGQUIT.\n"
"To be undone by release_signals(mask).");

static PyObject *
native_hold_signals(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    sigset_t child, before;
    pthread_mutex_lock(&waiting.lock);
    if (waiting.users++ == 0) {
        sigaction(SIGINT, &ignore, &waiting.interrupt);
        sigaction(SIGQUIT, &ignore, &waiting.quit);
    }
    pthread_mutex_unlock(&waiting.lock);
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    pthread_sigmask(SIG_BLOCK, &child, &before);
    return PyLong_FromUnsignedLongLong(set_to_mask(&before));
}

PyDoc_STRVAR(release_signals_doc, "release_signals(mask)\n\nUndo hold_signals().");

static PyObject *
native_release_signals(PyObject *Py_UNUSED(module), PyObject *args)
{
    unsigned long long mask;
    if (!PyArg_ParseTuple(args, "K:release_signals", &mask)) {
        return NULL;
    }
    pthread_mutex_lock(&waiting.lock);
    if (--waiting.users == 0) {
        sigaction(SIGINT, &waiting.interrupt, NULL);
        sigaction(SIGQUIT, &waiting.quit, NULL);
    }
    pthread_mutex_unlock(&waiting.lock);
    sigset_t before;
    mask_to_set(mask, &before);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(shell_doc,
"shell(cgroup_fd, command, mask) -> pid\n\n"
"Start the shell of system(command) in the cgroup (-1: in ours), between hold_signals() -> mask\n"
"and its undoing.\n\n"
"Raises PlacementError where the cgroup takes no process.");

static PyObject *
native_shell(PyObject *Py_UNUSED(module), PyObject *args)
{
    char *command;
    unsigned long long mask;
    struct job job = {.steps = posix_spawn_steps,
                      .attributes = ATTR_SETSIGDEF | ATTR_SETSIGMASK};
    if (!PyArg_ParseTuple(args, "iyK:shell", &job.cgroup_fd, &command, &mask)) {
        return NULL;
    }
    char *shells[] = {"/bin/sh", NULL};
    char *argv[] = {"sh", "-c", command, NULL};
    job.executables = shells;
    job.argv = argv;
    /* The shell gets the dispositions of before we waited: ignored stays ignored. */
    sigemptyset(&job.default_signals);
    if (waiting.interrupt.sa_handler != SIG_IGN) {
        sigaddset(&job.default_signals, SIGINT);
    }
    if (waiting.quit.sa_handler != SIG_IGN) {
        sigaddset(&job.default_signals, SIGQUIT);
    }
    mask_to_set(mask, &job.mask);
    pid_t pid = launch(&job);
    return pid < 0 ? NULL : PyLong_FromLong(pid);
}

PyDoc_STRVAR(wait_doc,
"wait(pid) -> wait status\n\n"
"Wait for a child through all signals, as system() does; -1 where it is not ours to wait for.");

static PyObject *
native_wait(PyObject *Py_UNUSED(module), PyObject *args)
{
    int pid, status = -1;
    pid_t waited;
    if (!PyArg_ParseTuple(args, "i:wait", &pid)) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    do {
        waited = waitpid(pid, &status, 0);
    } while (waited < 0 && errno == EINTR);
    Py_END_ALLOW_THREADS
    return PyLong_FromLong(waited < 0 ? -1 : status);
}

/* -------------------------------------------------------------------------------- real forks --- */

enum { NOT_ARMED = -1, REFUSED = -2 };

/* cgroup.procs of where the next fork of this thread belongs; REFUSED: it must not happen. */
static __thread int pending = NOT_ARMED;

static void
refuse_child(const char *text)
{
    ssize_t ignored = write(STDERR_FILENO, text, strlen(text));
    (void)ignored;
    _exit(EXIT_REFUSED);
}

/* In the child of any fork(), before fork() returns there. */
static void
after_fork_in_child(void)
{
    if (pending == NOT_ARMED) {
        return;
    }
    if (pending == REFUSED) {
        refuse_child("agentcgroup: process refused: its tool call takes no more processes\n");
    }
    if (join_cgroup(pending) < 0) {
        refuse_child("agentcgroup: process refused: it could not join its tool call's cgroup\n");
    }
    close(pending);
    pending = NOT_ARMED;
}

static void
forget_pending(void)
{
    if (pending >= 0) {
        close(pending);
    }
    pending = NOT_ARMED;
}

PyDoc_STRVAR(arm_doc,
"arm(cgroup_fd)\n\n"
"Let every fork() of this thread put its child into the cgroup, until disarm().\n\n"
"Raises PlacementError where the cgroup takes no process.");

static PyObject *
native_arm(PyObject *Py_UNUSED(module), PyObject *args)
{
    int cgroup_fd;
    if (!PyArg_ParseTuple(args, "i:arm", &cgroup_fd)) {
        return NULL;
    }
    forget_pending();
    int procs_fd = open_procs(cgroup_fd);
    if (procs_fd < 0) {
        return raise_placement_error(errno);
    }
    pending = procs_fd;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(refuse_doc,
"refuse()\n\nLet every child that this thread forks exit at once with status 126, until disarm().");

static PyObject *
native_refuse(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    forget_pending();
    pending = REFUSED;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(disarm_doc, "disarm()\n\nUndo arm() or refuse().");

static PyObject *
native_disarm(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    forget_pending();
    Py_RETURN_NONE;
}

/* ------------------------------------------------------------------------- a fork born inside --- */

/* Where the C library keeps this thread's id: a raw clone has to let the kernel correct it in the
 * child, as fork() does. NULL where the kernel does not tell (CONFIG_CHECKPOINT_RESTORE). */
static pid_t *
thread_id_address(void)
{
    pid_t *address = NULL;
    if (prctl(PR_GET_TID_ADDRESS, &address, 0, 0, 0) < 0 || address == NULL
        || *address != (pid_t)syscall(SYS_gettid)) {
        return NULL;
    }
    return address;
}

PyDoc_STRVAR(fork_into_doc,
"fork_into(cgroup_fd) -> pid, 0 in the child\n\n"
"os.fork() with the child born in the cgroup whose directory cgroup_fd is. Python's fork hooks run,\n"
"the C library's do not: only for a process of one thread, where no other can hold a lock.\n\n"
"Raises PlacementError where the cgroup takes no process or clone3 is refused (see spawn_mode).");

static PyObject *
native_fork_into(PyObject *Py_UNUSED(module), PyObject *args)
{
    int cgroup_fd;
    if (!PyArg_ParseTuple(args, "i:fork_into", &cgroup_fd)) {
        return NULL;
    }
    struct clone3_arguments arguments = {
        .flags = AGC_CLONE_INTO_CGROUP,
        .exit_signal = SIGCHLD,
        .cgroup = (uint64_t)cgroup_fd,
    };
    pid_t *thread_id = thread_id_address();
    if (thread_id != NULL) {
        arguments.flags |= CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID;
        arguments.child_tid = (uint64_t)(uintptr_t)thread_id;
    }
    PyOS_BeforeFork();
    long pid = syscall(SYS_clone3, &arguments, sizeof(arguments));
    int error = errno;
    if (pid == 0) {
        PyOS_AfterFork_Child();
    }
    else {
        PyOS_AfterFork_Parent();
    }
    return pid < 0 ? raise_placement_error(error) : PyLong_FromLong(pid);
}

/* ------------------------------------------------------------------------------------ module --- */

PyDoc_STRVAR(spawn_mode_doc,
"spawn_mode() -> (name, errno)\n\n"
"('clone3', 0), or ('vfork', e) where clone3 into a cgroup answers errno e.");

static PyObject *
native_spawn_mode(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    const char *name = current_mode() == MODE_CLONE3 ? "clone3" : "vfork";
    return Py_BuildValue("(si)", name, mode_errno);
}

PyDoc_STRVAR(set_chdir_report_doc,
"set_chdir_report(text)\n\n"
"How this Python's subprocess wants to hear of a bad cwd: 'noexec' or 'noexec:chdir'.");

static PyObject *
native_set_chdir_report(PyObject *Py_UNUSED(module), PyObject *args)
{
    const char *text;
    if (!PyArg_ParseTuple(args, "s:set_chdir_report", &text)) {
        return NULL;
    }
    chdir_report = strcmp(text, "noexec:chdir") == 0 ? "noexec:chdir" : "noexec";
    Py_RETURN_NONE;
}

/* --------------------------------------------------------------- what a thread has used --- */

PyDoc_STRVAR(usage_doc,
"usage() -> (int, int)\n\n"
"Return the CPU time of the calling thread in microseconds, as of the last timer tick, and the peak\n"
"of the process's resident memory in KiB: getrusage(2).");

static PyObject *
native_usage(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(unused))
{
    struct rusage used;
    long long spent;

    if (getrusage(RUSAGE_THREAD, &used) != 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    spent = (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000000LL;
    spent += used.ru_utime.tv_usec + used.ru_stime.tv_usec;
    return Py_BuildValue("(Ll)", spent, used.ru_maxrss);
}

static PyMethodDef methods[] = {
    {"fork_exec", native_fork_exec, METH_VARARGS, fork_exec_doc},
    {"posix_spawn", native_posix_spawn, METH_VARARGS, posix_spawn_doc},
    {"hold_signals", native_hold_signals, METH_NOARGS, hold_signals_doc},
    {"release_signals", native_release_signals, METH_VARARGS, release_signals_doc},
    {"shell", native_shell, METH_VARARGS, shell_doc},
    {"wait", native_wait, METH_VARARGS, wait_doc},
    {"arm", native_arm, METH_VARARGS, arm_doc},
    {"refuse", native_refuse, METH_NOARGS, refuse_doc},
    {"disarm", native_disarm, METH_NOARGS, disarm_doc},
    {"fork_into", native_fork_into, METH_VARARGS, fork_into_doc},
    {"spawn_mode", native_spawn_mode, METH_NOARGS, spawn_mode_doc},
    {"set_chdir_report", native_set_chdir_report, METH_VARARGS, set_chdir_report_doc},
    {"usage", native_usage, METH_NOARGS, usage_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_native",
    .m_doc = "Start processes that are born inside a given cgroup.",
    .m_size = -1,
    .m_methods = methods,
};

PyMODINIT_FUNC
PyInit__native(void)
{
    PyObject *module = PyModule_Create(&module_definition);
    if (module == NULL) {
        return NULL;
    }
    PlacementError = PyErr_NewExceptionWithDoc(
        "agentcgroup._native.PlacementError",
        "The cgroup takes no process: it is gone, has controllers of its own, or is not ours.",
        PyExc_OSError, NULL);
    if (PlacementError == NULL || PyModule_AddObjectRef(module, "PlacementError", PlacementError) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    if (pthread_atfork(NULL, NULL, after_fork_in_child) != 0) {
        Py_DECREF(module);
        return PyErr_NoMemory();
    }
    return module;
}
