/* CPU time and memory of the calling thread. */
#include "native.h"

#include <sys/resource.h>

PyDoc_STRVAR(usage_doc,
"usage() -> (microseconds, kibibytes)\n\n"
"Return the CPU time of the calling thread in microseconds, as of the last timer tick, and the\n"
"peak of the process's resident memory in KiB: getrusage(2).");

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

PyMethodDef usage_methods[] = {
    {"usage", native_usage, METH_NOARGS, usage_doc},
    {NULL, NULL, 0, NULL},
};
