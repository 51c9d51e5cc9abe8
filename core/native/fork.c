/* Real forks: the child of a fork() by other code joins a cgroup; fork_into forks into one. */
#include "native.h"

#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

enum {
    NO_TARGET = -1, /* leave the child in the parent's cgroup */
    REFUSE = -2,    /* the child exits */
};

/* An open cgroup.procs for the children that this thread forks, or one of these. */
static __thread int fork_target = NO_TARGET;

static void
refuse_child(const char *text)
{
    ssize_t ignored = write(STDERR_FILENO, text, strlen(text));
    (void)ignored;
    _exit(EXIT_REFUSED);
}

/* Runs in the child of any fork(), before fork() returns there. */
void
place_forked_child(void)
{
    if (fork_target == NO_TARGET) {
        return;
    }
    if (fork_target == REFUSE) {
        refuse_child("agentcgroup: process refused: its tool call takes no more processes\n");
    }
    if (join_cgroup(fork_target) < 0) {
        refuse_child("agentcgroup: process refused: it could not join its tool call's cgroup\n");
    }
    close(fork_target);
    fork_target = NO_TARGET;
}

static void
clear_target(void)
{
    if (fork_target >= 0) {
        close(fork_target);
    }
    fork_target = NO_TARGET;
}

PyDoc_STRVAR(set_fork_target_doc,
"set_fork_target(cgroup_fd)\n\n"
"Put the child of every fork() by this thread into the cgroup until clear_fork_target().\n\n"
"Raises PlacementError where the cgroup takes no process.");

static PyObject *
native_set_fork_target(PyObject *Py_UNUSED(module), PyObject *args)
{
    int cgroup_fd;
    if (!PyArg_ParseTuple(args, "i:set_fork_target", &cgroup_fd)) {
        return NULL;
    }
    clear_target();
    int procs_fd = open_procs(cgroup_fd);
    if (procs_fd < 0) {
        return raise_placement_error(errno);
    }
    fork_target = procs_fd;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(refuse_forks_doc,
"refuse_forks()\n\n"
"Make every child that this thread forks exit with status 126 before it runs anything, until\n"
"clear_fork_target().");

static PyObject *
native_refuse_forks(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    clear_target();
    fork_target = REFUSE;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(clear_fork_target_doc,
"clear_fork_target()\n\nUndo set_fork_target() or refuse_forks(); do nothing without either.");

static PyObject *
native_clear_fork_target(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    clear_target();
    Py_RETURN_NONE;
}

/* Return the address where the C library keeps this thread's id: after a raw clone the kernel has
 * to correct the id in the child, as after fork(). NULL without CONFIG_CHECKPOINT_RESTORE. */
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
"os.fork() with the child born in the cgroup whose directory cgroup_fd is. Python's fork hooks\n"
"run, the C library's do not: call it only in a process of one thread, where no other thread can\n"
"hold a lock of the C library.\n\n"
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

PyMethodDef fork_methods[] = {
    {"set_fork_target", native_set_fork_target, METH_VARARGS, set_fork_target_doc},
    {"refuse_forks", native_refuse_forks, METH_NOARGS, refuse_forks_doc},
    {"clear_fork_target", native_clear_fork_target, METH_NOARGS, clear_fork_target_doc},
    {"fork_into", native_fork_into, METH_VARARGS, fork_into_doc},
    {NULL, NULL, 0, NULL},
};
