"""Objects that code compares by identity, pickled by name.

``MISSING = object()`` at the level of a module means something by being that very object, and a
copy of it means nothing. The same holds for an instance of a class that keeps such instances in its
own module, such as ``NOT_GIVEN = NotGiven()``. Where such an object has no state, or plain state
that is the same on both sides, the other process takes its own object of that name. A name of
``__main__`` has no module in a worker: the worker makes one object for the name and sends the name
back.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Mapping
from typing import Any, Final

from agentcgroup import isolation

__all__ = ["reducer"]

_PLAIN: Final = frozenset({bool, bytes, float, int, str, type(None)})
_HEAPTYPE: Final = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement

#: Module and name of a module-level object.
_Path = tuple[str, str]

#: Plain objects of all modules by id, and the number of modules that were searched.
_plain: dict[int, _Path] = {}
_searched = 0
#: In a worker: the objects that stand for names of ``__main__``.
_made: dict[_Path, object] = {}


def reducer(kind: type) -> Callable[[Any], Any] | None:
    """Return the function that pickles instances of a type by name where they have one.

    Returns:
        None where no instance can be such an object.
    """
    if kind is object or (_has_no_reducer(kind) and _is_kept_by_its_module(kind)):
        return _reduce
    return None


def _reduce(thing: Any) -> Any:
    reduced = thing.__reduce_ex__(5)
    path = _path(thing)
    if path is None or isinstance(reduced, str):
        return reduced
    state, *items = (*reduced[2:], None, None, None)[:3]
    if any(item is not None for item in items) or not _is_plain(state):
        return reduced
    return _at, (path, type(thing), reduced[:2], state)


def _at(path: _Path, kind: type, make: tuple[Callable[..., Any], Any], state: Any) -> object:
    """Return the object of that name if it is the same here, else a new one."""
    module, name = path
    if module == "__main__" and path in _made:
        return _made[path]
    try:
        __import__(module)
        found = vars(sys.modules[module]).get(name)
    except Exception:  # a module that only the other process can import
        found = None
    if type(found) is kind and (state or None) == (getattr(found, "__dict__", None) or None):
        return found
    new: object = make[0](*make[1])
    if state:
        vars(new).update(state)
    if module == "__main__" and isolation.inside():
        _made[path] = new
    return new


def _path(thing: object) -> _Path | None:
    path = next((path for path, made in _made.items() if made is thing), None)
    if path is not None:
        return path
    path = _path_of_plain(thing) if type(thing) is object else _path_within(thing)
    if path is None or getattr(sys.modules.get(path[0]), path[1], None) is not thing:
        return None
    return path


def _path_of_plain(thing: object) -> _Path | None:
    """Return where an instance of `object` itself is; the search takes some milliseconds."""
    global _searched
    if _searched != len(sys.modules):
        _plain.clear()
        # __main__ last: what it has imported goes by the name of the module that made it.
        for module, found in sorted(sys.modules.items(), key=lambda item: item[0] == "__main__"):
            for name, value in _variables(found):
                if type(value) is object:
                    _plain.setdefault(id(value), (module, name))
        _searched = len(sys.modules)
    return _plain.get(id(thing))


def _path_within(thing: object) -> _Path | None:
    module = type(thing).__module__
    found = sys.modules.get(module)
    return next(((module, name) for name, value in _variables(found) if value is thing), None)


def _is_kept_by_its_module(kind: type) -> bool:
    module = sys.modules.get(kind.__module__)
    values = (value for _, value in _variables(module))
    return any(type(value) is kind for value in (*_made.values(), *values))


def _has_no_reducer(kind: Any) -> bool:
    """Return whether a class is pickled by default: another one knows how to keep its identity."""
    return (
        bool(kind.__flags__ & _HEAPTYPE)
        and kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__reduce__ is object.__reduce__
    )


def _is_plain(state: Any) -> bool:
    if isinstance(state, Mapping):
        return all(type(value) in _PLAIN for value in state.values())
    return state is None


def _variables(module: types.ModuleType | None) -> list[tuple[str, Any]]:
    names = getattr(module, "__dict__", None)
    return list(names.items()) if isinstance(names, dict) else []
