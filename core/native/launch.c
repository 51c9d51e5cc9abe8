/* Make the child: by clone3 into the cgroup, or by vfork where clone3 is missing or refused. */
#include "native.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

PyObject *PlacementError;

static int
child_main(void *argument)
{
    struct child *child = argument;
    if (child->procs_fd >= 0) {
        if (join_cgroup(child->procs_fd) < 0) {
            child->place_errno = errno;
            return EXIT_REFUSED;
        }
    }
    if (!child->by_clone3) {
        drop_signal_handlers(); /* with clone3, CLONE_CLEAR_SIGHAND has done it */
    }
    child->steps(child);
    return EXIT_NOT_FOUND;
}

/* The child shares the parent's memory and so needs a stack of its own, and must never return into
 * a frame of the parent: its registers go from the system call to child_main in assembly.
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
static int mode_errno = 0; /* of clone3 where the mode is MODE_VFORK */

/* Call clone3 once, with a cgroup fd that cannot exist: EBADF means that the kernel supports the
 * flag. The call makes no child, so it needs no stack. */
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

/* The child's stack is an array in this frame: CLONE_VFORK suspends the parent until the child has
 * executed a program or exited. */
static __attribute__((noinline)) pid_t
clone3_child(struct child *child)
{
    char stack[32 * 1024] __attribute__((aligned(64)));
    struct clone3_arguments arguments = {
        .flags = CLONE_VM | CLONE_VFORK | AGC_CLONE_CLEAR_SIGHAND,
        .exit_signal = SIGCHLD,
        .stack = (uint64_t)(uintptr_t)stack,
        .stack_size = sizeof(stack),
    };
    if (child->cgroup_fd >= 0) {
        arguments.flags |= AGC_CLONE_INTO_CGROUP;
        arguments.cgroup = (uint64_t)child->cgroup_fd;
    }
    long pid = agc_clone3(&arguments, sizeof(arguments), child_main, child);
    if (pid < 0) {
        errno = (int)-pid;
        return -1;
    }
    return (pid_t)pid;
}
#endif

static __attribute__((noinline)) pid_t
vfork_child(struct child *child)
{
    pid_t pid = vfork();
    if (pid == 0) {
        _exit(child_main(child));
    }
    return pid;
}

/* Whether clone3 returned the error for the cgroup, not for the process (cgroup_css_set_fork). */
static int
is_placement_errno(int error)
{
    return error == EACCES || error == EBADF || error == EBUSY || error == ENODEV
           || error == ENOENT || error == EOPNOTSUPP || error == EPERM;
}

void
reap(pid_t pid)
{
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
    }
}

PyObject *
raise_placement_error(int error)
{
    PyObject *arguments = Py_BuildValue("(is)", error, strerror(error));
    if (arguments != NULL) {
        PyErr_SetObject(PlacementError, arguments);
        Py_DECREF(arguments);
    }
    return NULL;
}

int
open_procs(int cgroup_fd)
{
    return openat(cgroup_fd, "cgroup.procs", O_WRONLY | O_CLOEXEC);
}

/* Make the child. Return its pid, also where it could not execute the program (child->exec_errno
 * says why), or -1 with a Python error set: PlacementError or OSError. */
pid_t
launch(struct child *child)
{
    child->by_clone3 = current_mode() == MODE_CLONE3;
    child->procs_fd = -1;
    if (!child->by_clone3 && child->cgroup_fd >= 0
        && (child->procs_fd = open_procs(child->cgroup_fd)) < 0) {
        raise_placement_error(errno);
        return -1;
    }
    PyThreadState *thread = PyEval_SaveThread();
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    if (!(child->attributes & ATTR_SETSIGMASK)) {
        child->mask = before;
    }
    pid_t pid;
#if HAVE_CLONE3_CHILD
    pid = child->by_clone3 ? clone3_child(child) : vfork_child(child);
#else
    pid = vfork_child(child);
#endif
    int error = errno;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (child->procs_fd >= 0) {
        close(child->procs_fd);
    }
    if (pid > 0 && child->place_errno) {
        reap(pid);
    }
    PyEval_RestoreThread(thread);

    if (pid > 0 && child->place_errno) {
        raise_placement_error(child->place_errno);
        return -1;
    }
    if (pid < 0 && child->by_clone3 && is_placement_errno(error)) {
        raise_placement_error(error);
    }
    else if (pid < 0) {
        errno = error;
        PyErr_SetFromErrno(PyExc_OSError);
    }
    return pid;
}

PyDoc_STRVAR(spawn_mode_doc,
"spawn_mode() -> (name, errno)\n\n"
"Return ('clone3', 0), or ('vfork', e) where clone3 into a cgroup fails with errno e.");

static PyObject *
native_spawn_mode(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    const char *name = current_mode() == MODE_CLONE3 ? "clone3" : "vfork";
    return Py_BuildValue("(si)", name, mode_errno);
}

PyMethodDef launch_methods[] = {
    {"spawn_mode", native_spawn_mode, METH_NOARGS, spawn_mode_doc},
    {NULL, NULL, 0, NULL},
};
