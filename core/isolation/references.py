"""Find what the code of a function refers to, without running it.

The search reads the names in the compiled code and looks them up in the function's closure and
globals. It goes on into the functions that are found, except for those of the standard library and
of installed packages. It cannot see what a name is looked up by at run time, such as `getattr`.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import sysconfig
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

__all__ = ["References", "references"]

#: Functions that one search reads at most.
_MOST: Final = 500
#: Parts of the paths of libraries, whose functions are not read.
_LIBRARIES: Final = ("/site-packages/", "/dist-packages/", sysconfig.get_path("stdlib"))
_EMPTY: Final[Any] = object()


class References(NamedTuple):
    """What the code of a function refers to.

    Attributes:
        functions: functions and classes, such as "json.decoder.JSONDecoder".
        kinds: the classes of other objects, and the base classes of these.
        attributes: names of attributes.
    """

    functions: frozenset[str]
    kinds: frozenset[str]
    attributes: frozenset[str]


_known: weakref.WeakKeyDictionary[Any, References] = weakref.WeakKeyDictionary()


def references(function: Callable[..., Any]) -> References:
    """Return what a function refers to, or a method, a partial, an object that is called.

    The search is done once for each function.
    """
    plain = _function(function)
    owner = type(getattr(function, "__self__", None))
    if plain is None:
        return References(frozenset(), frozenset(), frozenset())
    found = _known.get(plain)
    if found is None:
        found = _known[plain] = _Search(plain, owner).found()
    return found


class _Search:
    """One search."""

    def __init__(self, function: types.FunctionType, owner: type) -> None:
        self._owner = owner
        self._functions: set[str] = set()
        self._kinds: set[str] = set()
        self._attributes: set[str] = set()
        self._seen = {id(function)}
        self._left = [function]

    def found(self) -> References:
        """Read the functions that are left, and those found in them."""
        for _ in range(_MOST):
            if not self._left:
                break
            function = self._left.pop()
            for value in _values(function):
                self._note(value)
            for code in _codes(function.__code__):
                self._read(code, function)
        return References(*map(frozenset, (self._functions, self._kinds, self._attributes)))

    def _read(self, code: types.CodeType, function: types.FunctionType) -> None:
        """Look up the names in one code object."""
        self._attributes.update(code.co_names)
        modules = []
        for name in code.co_names:
            value = function.__globals__.get(name, _EMPTY)
            if value is _EMPTY:  # an import statement in the function, an attribute, a builtin
                value = sys.modules.get(name, _attribute(self._owner, name))
            if _is_module(value):
                modules.append(value)
            elif value is not _EMPTY:
                self._note(value)
        for module in modules:  # grows: a module may be an attribute of another one
            for name in code.co_names:
                value = vars(module).get(name, _EMPTY)
                if not _is_module(value):
                    self._note(value)
                elif value not in modules:
                    modules.append(value)

    def _note(self, value: Any) -> None:
        with contextlib.suppress(Exception):  # a proxy raises where its object is not to be had
            self._take(value)

    def _take(self, value: Any) -> None:
        if isinstance(value, type):
            self._functions.add(_full_name(value))
            return
        plain = _function(value)
        if plain is not None:
            self._functions.add(_full_name(plain))
        if not isinstance(value, types.FunctionType):
            owner = getattr(value, "__self__", value)  # of a method
            self._kinds.update(map(_full_name, type(owner).__mro__[:-1]))
        if plain is not None and id(plain) not in self._seen:
            self._seen.add(id(plain))
            if not any(part in plain.__code__.co_filename for part in _LIBRARIES):
                self._left.append(plain)


def _is_module(value: object) -> bool:
    """Return whether it is a module, without a look at its attribute ``__class__``."""
    return issubclass(type(value), types.ModuleType)


def _attribute(owner: type, name: str) -> Any:
    with contextlib.suppress(Exception):  # of a property of its metaclass
        return getattr(owner, name, _EMPTY)
    return _EMPTY


def _full_name(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


def _function(thing: Any) -> types.FunctionType | None:
    """Return the function below a method, a partial or an object that is called."""
    for _ in range(10):
        if isinstance(thing, types.FunctionType):
            return thing
        if isinstance(thing, functools.partial):
            thing = thing.func
        elif isinstance(thing, types.MethodType):
            thing = thing.__func__
        else:
            thing = vars(type(thing)).get("__call__")
    return None


def _values(function: types.FunctionType) -> Iterator[Any]:
    """Yield what a function holds: its closure, its defaults, and the function that it wraps."""
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    if wrapped := vars(function).get("__wrapped__"):
        yield wrapped


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield a code object, and those of the functions and comprehensions in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)
