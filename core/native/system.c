/* os.system: the steps of system(3), with the shell born in a cgroup. */
#include "native.h"

#include <pthread.h>
#include <sys/wait.h>

/* system() ignores SIGINT and SIGQUIT while it waits. Where several threads are in it, the first
 * stores the dispositions and the last restores them. */
static struct {
    pthread_mutex_t lock;
    int users;
    struct sigaction interrupt, quit;
} waiting = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* The calls of os.system that this thread is in, a signal handler's within another one's included,
 * and its signal mask before the first. */
static __thread int depth;
static __thread sigset_t outer_mask;

PyDoc_STRVAR(begin_system_doc,
"begin_system() -> mask\n\n"
"Do the first step of system(): block SIGCHLD in this thread, ignore SIGINT and SIGQUIT. Returns\n"
"the former signal mask. A signal handler of Python may raise as this returns: end_system() needs\n"
"no argument.");

static PyObject *
native_begin_system(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    sigset_t blocked, before;
    pthread_mutex_lock(&waiting.lock);
    if (waiting.users++ == 0) {
        sigaction(SIGINT, &ignore, &waiting.interrupt);
        sigaction(SIGQUIT, &ignore, &waiting.quit);
    }
    pthread_mutex_unlock(&waiting.lock);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGCHLD);
    pthread_sigmask(SIG_BLOCK, &blocked, &before);
    if (depth++ == 0) {
        outer_mask = before;
    }
    return PyLong_FromUnsignedLongLong(set_to_mask(&before));
}

PyDoc_STRVAR(end_system_doc,
"end_system()\n\n"
"Undo the last begin_system() of this thread; do nothing without one.");

static PyObject *
native_end_system(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    if (depth == 0) {
        Py_RETURN_NONE;
    }
    pthread_mutex_lock(&waiting.lock);
    if (--waiting.users == 0) {
        sigaction(SIGINT, &waiting.interrupt, NULL);
        sigaction(SIGQUIT, &waiting.quit, NULL);
    }
    pthread_mutex_unlock(&waiting.lock);
    if (--depth == 0) {
        pthread_sigmask(SIG_SETMASK, &outer_mask, NULL);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(start_shell_doc,
"start_shell(cgroup_fd, command, mask) -> pid\n\n"
"Start the shell of system(command) in the cgroup (-1: in the parent's), after begin_system()\n"
"returned the mask and before end_system().\n\n"
"Raises PlacementError where the cgroup takes no process.");

static PyObject *
native_start_shell(PyObject *Py_UNUSED(module), PyObject *args)
{
    char *command;
    unsigned long long mask;
    struct child child = {.steps = posix_spawn_steps,
                          .attributes = ATTR_SETSIGDEF | ATTR_SETSIGMASK};
    if (!PyArg_ParseTuple(args, "iyK:start_shell", &child.cgroup_fd, &command, &mask)) {
        return NULL;
    }
    char *shells[] = {"/bin/sh", NULL};
    char *argv[] = {"sh", "-c", command, NULL};
    child.executables = shells;
    child.argv = argv;
    /* The shell gets the dispositions from before begin_system(): ignored stays ignored. */
    sigemptyset(&child.default_signals);
    if (waiting.interrupt.sa_handler != SIG_IGN) {
        sigaddset(&child.default_signals, SIGINT);
    }
    if (waiting.quit.sa_handler != SIG_IGN) {
        sigaddset(&child.default_signals, SIGQUIT);
    }
    mask_to_set(mask, &child.mask);
    pid_t pid = launch(&child);
    return pid < 0 ? NULL : PyLong_FromLong(pid);
}

PyDoc_STRVAR(wait_doc,
"wait(pid) -> wait status\n\n"
"Wait for a child, whatever signals arrive, as system() does; -1 where this process has no such\n"
"child.");

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

PyMethodDef system_methods[] = {
    {"begin_system", native_begin_system, METH_NOARGS, begin_system_doc},
    {"end_system", native_end_system, METH_NOARGS, end_system_doc},
    {"start_shell", native_start_shell, METH_VARARGS, start_shell_doc},
    {"wait", native_wait, METH_VARARGS, wait_doc},
    {NULL, NULL, 0, NULL},
};
