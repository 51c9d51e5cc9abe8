/* subprocess.Popen: _posixsubprocess.fork_exec with the child born in a cgroup. */
#include "native.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ------------------------------------------------------------------------------- the child --- */

/* Close all from 3 up but those to keep. */
static void
close_all_but(const struct child *child)
{
    unsigned int first = 3;
    for (Py_ssize_t i = 0; i < child->keep_count; i++) {
        unsigned int kept = (unsigned int)child->keep[i];
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

/* Duplicate *fd to a number above `limit` if putting others at 0, 1 and 2 would overwrite it. */
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

/* Close the parent's ends of the pipes; put the child's ends at 0, 1 and 2. */
static int
arrange_pipes(struct child *child)
{
    for (Py_ssize_t i = 0; i < child->keep_count; i++) {
        if (child->keep[i] != child->errpipe_write && keep_over_exec(child->keep[i]) < 0) {
            return -1;
        }
    }
    const int parents[] = {child->p2cwrite, child->c2pread, child->errread, child->errpipe_read};
    for (size_t i = 0; i < sizeof(parents) / sizeof(*parents); i++) {
        if (parents[i] != -1 && close(parents[i]) < 0) {
            return -1;
        }
    }
    if (lift(&child->c2pwrite, 0) < 0 || lift(&child->errwrite, 1) < 0) {
        return -1;
    }
    if (put_at(child->p2cread, 0) < 0 || put_at(child->c2pwrite, 1) < 0
        || put_at(child->errwrite, 2) < 0) {
        return -1;
    }
    return 0;
}

static int
restore_python_signals(void)
{
    /* Python ignores these when it starts; Popen(restore_signals=True) has to undo that. */
    default_signal(SIGPIPE);
#ifdef SIGXFSZ
    default_signal(SIGXFSZ);
#endif
    return 0;
}

/* Write the error to Popen's pipe in the one form that it reads: "OSError:<hex errno>:<where>". */
static void
report_to_popen(const struct child *child, int error, const char *where)
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
    ssize_t ignored = write(child->errpipe_write, text, length);
    (void)ignored;
}

/* Set by set_chdir_report(): since Python 3.13 subprocess distinguishes a bad cwd from other errors
 * before the exec. */
static const char *chdir_report = "noexec";

/* From birth to exec. */
static void
popen_steps(struct child *child)
{
    if (arrange_pipes(child) < 0) {
        report_to_popen(child, errno, "noexec");
        return;
    }
    if (child->cwd != NULL && chdir(child->cwd) < 0) {
        report_to_popen(child, errno, chdir_report);
        return;
    }
    if (child->umask >= 0) {
        umask((mode_t)child->umask);
    }
    if (child->restore_signals) {
        restore_python_signals();
    }
    sigprocmask(SIG_SETMASK, &child->mask, NULL);
    if ((child->setsid && setsid() < 0) || (child->pgid >= 0 && setpgid(0, child->pgid) < 0)) {
        report_to_popen(child, errno, "noexec");
        return;
    }
    if (child->close_fds) {
        close_all_but(child);
    }
    int error = 0;
    for (char **path = child->executables; *path != NULL; path++) {
        execute(child, *path);
        if (errno != ENOENT && errno != ENOTDIR && error == 0) {
            error = errno;
        }
    }
    report_to_popen(child, error ? error : errno, "");
}

/* ------------------------------------------------------------------------------ the parent --- */

/* Arguments of _posixsubprocess.fork_exec that stay Python objects until their conversion. */
struct popen_objects {
    PyObject *argv, *executables, *keep, *cwd, *env, *gid, *gids, *uid, *preexec;
    int allow_vfork;
};

/* Read the arguments of _posixsubprocess.fork_exec, which differ between Pythons: process_group
 * came in 3.11, allow_vfork in 3.11 and went in 3.14. Return 1; 0 for an unknown number of
 * arguments; -1 with a Python error set. */
static int
read_popen_arguments(PyObject *args, struct popen_objects *o, struct child *child)
{
    const char *format;
    Py_ssize_t count = PyTuple_Size(args);
    child->pgid = -1;
    o->allow_vfork = 1;
    if (count == 21) {
        int ok = PyArg_ParseTuple(
            args, "OOpO!OOiiiiiiiiiiOOOiO:fork_exec", &o->argv, &o->executables,
            &child->close_fds, &PyTuple_Type, &o->keep, &o->cwd, &o->env, &child->p2cread,
            &child->p2cwrite, &child->c2pread, &child->c2pwrite, &child->errread,
            &child->errwrite, &child->errpipe_read, &child->errpipe_write,
            &child->restore_signals, &child->setsid, &o->gid, &o->gids, &o->uid, &child->umask,
            &o->preexec);
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
        args, format, &o->argv, &o->executables, &child->close_fds, &PyTuple_Type, &o->keep,
        &o->cwd, &o->env, &child->p2cread, &child->p2cwrite, &child->c2pread, &child->c2pwrite,
        &child->errread, &child->errwrite, &child->errpipe_read, &child->errpipe_write,
        &child->restore_signals, &child->setsid, &child->pgid, &o->gid, &o->gids, &o->uid,
        &child->umask, &o->preexec, &o->allow_vfork);
    return ok ? 1 : -1;
}

/* Whether the request runs Python, or calls that are not safe on borrowed memory. */
static int
needs_fork(const struct popen_objects *o)
{
    return o->preexec != Py_None || o->gid != Py_None || o->gids != Py_None || o->uid != Py_None
           || !o->allow_vfork;
}

PyDoc_STRVAR(fork_exec_doc,
"fork_exec(cgroup_fd, args) -> pid | None\n\n"
"_posixsubprocess.fork_exec(*args) with the child born in the cgroup whose directory cgroup_fd\n"
"is. Returns None, and starts nothing, where these arguments need a real fork.\n\n"
"Raises PlacementError where the cgroup takes no process, and what fork_exec raises.");

static PyObject *
native_fork_exec(PyObject *Py_UNUSED(module), PyObject *all)
{
    PyObject *args, *result = NULL, *cwd = NULL;
    struct child child = {.steps = popen_steps};
    struct popen_objects o;
    struct strings executables = {0}, argv = {0}, envp = {0};
    int *keep = NULL;

    if (!PyArg_ParseTuple(all, "iO!:fork_exec", &child.cgroup_fd, &PyTuple_Type, &args)) {
        return NULL;
    }
    int shape = read_popen_arguments(args, &o, &child);
    if (shape < 0) {
        return NULL;
    }
    if (shape == 0 || needs_fork(&o)) {
        Py_RETURN_NONE;
    }
    if (child.close_fds && child.errpipe_write < 3) {
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
    child.keep = keep;
    child.keep_count = PyTuple_Size(o.keep);
    child.executables = executables.items;
    child.argv = argv.items;
    child.envp = envp.items;
    child.cwd = cwd != NULL ? PyBytes_AsString(cwd) : NULL;

    pid_t pid = launch(&child);
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

PyDoc_STRVAR(set_chdir_report_doc,
"set_chdir_report(text)\n\n"
"Set the text by which this Python's subprocess module recognizes a bad cwd: 'noexec' or\n"
"'noexec:chdir'.");

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

PyMethodDef popen_methods[] = {
    {"fork_exec", native_fork_exec, METH_VARARGS, fork_exec_doc},
    {"set_chdir_report", native_set_chdir_report, METH_VARARGS, set_chdir_report_doc},
    {NULL, NULL, 0, NULL},
};
