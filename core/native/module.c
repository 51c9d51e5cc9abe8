/* The module agentcgroup._native: its functions, its exception, its fork handler. */
#include "native.h"

#include <pthread.h>

static PyMethodDef *const tables[] = {
    launch_methods, popen_methods, posix_spawn_methods, system_methods,
    fork_methods, usage_methods, builtin_methods,
};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_native",
    .m_doc = "Start processes that are born inside a given cgroup.",
    .m_size = -1,
};

static int
fill(PyObject *module)
{
    for (size_t i = 0; i < sizeof(tables) / sizeof(*tables); i++) {
        if (PyModule_AddFunctions(module, tables[i]) < 0) {
            return -1;
        }
    }
    PlacementError = PyErr_NewExceptionWithDoc(
        "agentcgroup._native.PlacementError",
        "The cgroup takes no process.\n\n"
        "It was removed, has controllers of its own, or this process may not write to it.",
        PyExc_OSError, NULL);
    if (PlacementError == NULL
        || PyModule_AddObjectRef(module, "PlacementError", PlacementError) < 0) {
        return -1;
    }
    if (pthread_atfork(NULL, NULL, place_forked_child) != 0) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

PyMODINIT_FUNC
PyInit__native(void)
{
    PyObject *module = PyModule_Create(&module_definition);
    if (module != NULL && fill(module) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
