/* os.posix_spawn with the child born in a cgroup. */
#include "native.h"

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

enum action_kind { ACTION_OPEN, ACTION_CLOSE, ACTION_DUP2, ACTION_CLOSEFROM };

/* One step of os.posix_spawn's file_actions. */
struct action {
    int kind;
    int fd;
    int other; /* dup2: the new number; open: the flags */
    mode_t mode;
    const char *path;
};

/* ------------------------------------------------------------------------------- the child --- */

static int
do_action(const struct action *action)
{
    switch (action->kind) {
    case ACTION_CLOSE:
        close(action->fd); /* POSIX: no error if it is not open */
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

/* Raw system calls: glibc's wrappers signal every thread of the process to change its ids, too. */
static int
reset_ids(void)
{
    return syscall(SYS_setresgid, -1, getgid(), -1) == 0
                   && syscall(SYS_setresuid, -1, getuid(), -1) == 0
               ? 0
               : -1;
}

/* Apply the attributes in the order of glibc: signals, scheduling, session, group, ids. */
static int
apply_attributes(const struct child *child)
{
    int attributes = child->attributes;
    if (attributes & ATTR_SETSIGDEF) {
        for (int sig = 1; sig < NSIG; sig++) {
            if (sigismember(&child->default_signals, sig) == 1) {
                default_signal(sig);
            }
        }
    }
    struct sched_param param = {.sched_priority = child->sched_priority};
    if (attributes & ATTR_SETSCHEDULER) {
        if (sched_setscheduler(0, child->sched_policy, &param) < 0) {
            return -1;
        }
    }
    else if ((attributes & ATTR_SETSCHEDPARAM) && sched_setparam(0, &param) < 0) {
        return -1;
    }
    if ((attributes & ATTR_SETSID) && setsid() < 0) {
        return -1;
    }
    if ((attributes & ATTR_SETPGROUP) && setpgid(0, child->pgroup) < 0) {
        return -1;
    }
    return (attributes & ATTR_RESETIDS) ? reset_ids() : 0;
}

/* From birth to exec. */
void
posix_spawn_steps(struct child *child)
{
    if (apply_attributes(child) < 0) {
        child->exec_errno = errno;
        return;
    }
    for (Py_ssize_t i = 0; i < child->action_count; i++) {
        if (do_action(&child->actions[i]) < 0) {
            child->exec_errno = errno;
            return;
        }
    }
    sigprocmask(SIG_SETMASK, &child->mask, NULL);
    int denied = 0;
    for (char **path = child->executables; *path != NULL; path++) {
        execute(child, *path);
        if (errno == EACCES) {
            denied = EACCES; /* another folder of PATH may hold one that can be executed */
        }
        else if (errno != ENOENT && errno != ENOTDIR && errno != ENODEV && errno != ESTALE
                 && errno != ETIMEDOUT) {
            child->exec_errno = errno;
            return;
        }
    }
    child->exec_errno = denied ? denied : errno;
}
/* ------------------------------------------------------------------------------ the parent --- */

/* Return the steps of a list of (kind, fd, other, mode, path), which core/spawn/spawn_request.py
 * has checked; the caller frees them. */
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
"os.posix_spawn with checked arguments (core/spawn/spawn_request.py) and the child born in the\n"
"cgroup whose directory cgroup_fd is. Bit n - 1 of a signal set stands for signal n.\n\n"
"Raises PlacementError where the cgroup takes no process, OSError with the file name `path` where\n"
"the child could not execute it.");

static PyObject *
native_posix_spawn(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *path, *executable_list, *argv_list, *env_list, *action_list, *result = NULL;
    unsigned long long mask, defaults;
    struct child child = {.steps = posix_spawn_steps};
    struct strings executables = {0}, argv = {0}, envp = {0};
    struct action *actions = NULL;

    if (!PyArg_ParseTuple(args, "iOO!O!OO!iiKKii:posix_spawn", &child.cgroup_fd, &path,
                          &PyList_Type, &executable_list, &PyList_Type, &argv_list, &env_list,
                          &PyList_Type, &action_list, &child.attributes, &child.pgroup, &mask,
                          &defaults, &child.sched_policy, &child.sched_priority)) {
        return NULL;
    }
    mask_to_set(mask, &child.mask);
    mask_to_set(defaults, &child.default_signals);
    if (strings_from(&executables, executable_list, 0) < 0 || strings_from(&argv, argv_list, 0) < 0
        || (env_list != Py_None && strings_from(&envp, env_list, 0) < 0)
        || (actions = actions_from(action_list, &child.action_count)) == NULL) {
        goto done;
    }
    child.executables = executables.items;
    child.argv = argv.items;
    child.envp = envp.items;
    child.actions = actions;

    pid_t pid = launch(&child);
    if (pid > 0 && child.exec_errno) {
        reap(pid);
        errno = child.exec_errno;
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

PyMethodDef posix_spawn_methods[] = {
    {"posix_spawn", native_posix_spawn, METH_VARARGS, posix_spawn_doc},
    {NULL, NULL, 0, NULL},
};
