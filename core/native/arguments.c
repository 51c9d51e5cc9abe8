/* Convert and check what comes from Python, before the clone: no child touches a Python object. */
#include "native.h"

void
strings_free(struct strings *strings)
{
    Py_XDECREF(strings->owners);
    PyMem_Free(strings->items);
}

/* Fill `strings` from a sequence of bytes; with `convert`, of whatever os.fsencode takes.
 * -1 with a Python error set; the caller calls strings_free in either case. */
int
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
        /* Given no length to fill in, PyBytes_AsStringAndSize refuses NULs with a ValueError. */
        if (item == NULL || PyTuple_SetItem(strings->owners, i, item) < 0
            || PyBytes_AsStringAndSize(item, &strings->items[i], NULL) < 0) {
            return -1;
        }
    }
    strings->items[count] = NULL;
    return 0;
}

/* Return an ascending tuple of file descriptors as C ints, which the caller frees. */
int *
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

/* Bit n - 1 of the mask stands for signal n. */
void
mask_to_set(unsigned long long mask, sigset_t *set)
{
    sigemptyset(set);
    for (int sig = 1; sig <= 64 && sig < NSIG; sig++) {
        if (mask >> (sig - 1) & 1) {
            sigaddset(set, sig);
        }
    }
}

unsigned long long
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
