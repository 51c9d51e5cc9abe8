/*
 * Builtins that call a Python function, or spare themselves the call outside of tool calls.
 *
 * A function that stands in for os.system has to be what os.system is: it does not bind to an
 * instance as a function in a class does, and it pickles by its name.
 *
 * Outside of a tool call no Python function runs: after a fork each page of memory that parent or
 * child touches is copied, and a Python function touches several.
 */
#include "native.h"

#include <stdlib.h>
#include <string.h>

#define SLOTS 8 /* os and _posixsubprocess have six functions to replace */

static struct {
    PyObject *get, *original, *replacement;
} slots[SLOTS];
static PyMethodDef definitions[SLOTS];
static int used;

/* Return whether `get` returns something else than None; -1 with a Python error set. */
static int
is_set(PyObject *get)
{
    PyObject *value = PyObject_CallNoArgs(get);
    if (value == NULL) {
        return -1;
    }
    Py_DECREF(value);
    return value != Py_None;
}

static PyObject *
call_slot(int number, PyObject *args, PyObject *kwargs)
{
    int set = is_set(slots[number].get);
    if (set < 0) {
        return NULL;
    }
    return PyObject_Call(set ? slots[number].replacement : slots[number].original, args, kwargs);
}

/* A C function gets nothing that would tell which builtin was called: each has its own. */
#define SLOT(n)                                                                       \
    static PyObject *call_##n(PyObject *Py_UNUSED(self), PyObject *args, PyObject *kwargs) \
    {                                                                                 \
        return call_slot(n, args, kwargs);                                            \
    }
SLOT(0) SLOT(1) SLOT(2) SLOT(3) SLOT(4) SLOT(5) SLOT(6) SLOT(7)

static const PyCFunctionWithKeywords calls[SLOTS] = {
    call_0, call_1, call_2, call_3, call_4, call_5, call_6, call_7,
};

/* Return a copy of a str or None attribute, NULL without an error for None; free() it. */
static char *
text_of(PyObject *object, const char *attribute)
{
    PyObject *value = PyObject_GetAttrString(object, attribute);
    const char *text;
    char *copy = NULL;

    if (value != NULL && value != Py_None && (text = PyUnicode_AsUTF8AndSize(value, NULL)) != NULL
        && (copy = strdup(text)) == NULL) {
        PyErr_NoMemory();
    }
    Py_XDECREF(value);
    return copy;
}

/* Return the text from which Python makes __text_signature__ and __doc__: name, signature, doc. */
static char *
documentation(PyObject *original, const char *name)
{
    char *signature = text_of(original, "__text_signature__");
    char *doc = PyErr_Occurred() ? NULL : text_of(original, "__doc__");
    char *joined = NULL;

    if (signature != NULL && !PyErr_Occurred()) {
        size_t size = strlen(name) + strlen(signature) + (doc ? strlen(doc) : 0) + 8;

        joined = malloc(size);
        if (joined == NULL) {
            PyErr_NoMemory();
        }
        else {
            PyOS_snprintf(joined, size, "%s%s\n--\n\n%s", name, signature, doc ? doc : "");
        }
        free(doc);
    }
    else {
        joined = doc;
    }
    free(signature);
    return joined;
}

PyDoc_STRVAR(builtin_like_doc,
"builtin_like(original, replacement, get) -> builtin\n\n"
"Return a builtin with the name, module, signature and text of `original` that calls\n"
"`replacement`, or `original` where `get()` is None. All last as long as the process.");

static PyObject *
native_builtin_like(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *original, *replacement, *get;
    PyObject *self = NULL, *module_name = NULL, *made = NULL;
    PyMethodDef *definition = &definitions[used];
    char *name = NULL, *doc = NULL;

    if (!PyArg_ParseTuple(args, "OOO:builtin_like", &original, &replacement, &get)) {
        return NULL;
    }
    if (used == SLOTS) {
        PyErr_SetString(PyExc_RuntimeError, "no slot is left for another builtin");
        return NULL;
    }
    if ((name = text_of(original, "__name__")) == NULL
        || ((doc = documentation(original, name)) == NULL && PyErr_Occurred())
        || (self = PyObject_GetAttrString(original, "__self__")) == NULL
        || (module_name = PyObject_GetAttrString(original, "__module__")) == NULL) {
        goto done;
    }
    *definition = (PyMethodDef){name, (PyCFunction)(void (*)(void))calls[used],
                                METH_VARARGS | METH_KEYWORDS, doc};
    made = PyCFunction_NewEx(definition, self, module_name);
    if (made != NULL) {
        slots[used].get = Py_NewRef(get);
        slots[used].original = Py_NewRef(original);
        slots[used].replacement = Py_NewRef(replacement);
        used++;
        name = doc = NULL; /* the definition keeps them */
    }
done:
    free(name);
    free(doc);
    Py_XDECREF(self);
    Py_XDECREF(module_name);
    return made;
}

static PyObject *
call_where_set(PyObject *pair, PyObject *Py_UNUSED(none))
{
    int set = is_set(PyTuple_GetItem(pair, 0));
    if (set < 0) {
        return NULL;
    }
    if (set) {
        return PyObject_CallNoArgs(PyTuple_GetItem(pair, 1));
    }
    Py_RETURN_NONE;
}

static PyMethodDef where_set_definition = {"where_set", call_where_set, METH_NOARGS, NULL};

PyDoc_STRVAR(where_set_doc,
"where_set(get, function) -> builtin\n\n"
"Return a builtin without arguments that calls `function` unless `get()` is None.");

static PyObject *
native_where_set(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *get, *function;
    if (!PyArg_ParseTuple(args, "OO:where_set", &get, &function)) {
        return NULL;
    }
    PyObject *pair = PyTuple_Pack(2, get, function);
    if (pair == NULL) {
        return NULL;
    }
    PyObject *made = PyCFunction_NewEx(&where_set_definition, pair, NULL);
    Py_DECREF(pair);
    return made;
}

PyMethodDef builtin_methods[] = {
    {"where_set", native_where_set, METH_VARARGS, where_set_doc},
    {"builtin_like", native_builtin_like, METH_VARARGS, builtin_like_doc},
    {NULL, NULL, 0, NULL},
};
