"""What goes between the app and a worker, pickled; and what of it cannot be.

By cloudpickle: functions and classes of ``__main__``, lambdas and closures go by value, so that the
user's script is never run a second time, and need no ``if __name__ == "__main__"``. What can be
imported goes by name. Objects of classes that went by value come back as objects of the very same
class.
"""

from __future__ import annotations

import functools
import inspect
import pickle
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Final

import cloudpickle

from agentcgroup.errors import Unshippable
from agentcgroup.isolation.channel import LARGE

__all__ = [
    "Parcel",
    "blame",
    "blame_arrival",
    "blame_result",
    "pack",
    "pack_call",
    "unpack",
    "variable_at",
    "variable_here",
    "variable_path",
    "weight",
]

#: By this name the plain pickler refers to what a worker would look for in vain.
_MAIN: Final = b"__main__"
_DEEPEST: Final = 12
#: What every pickler writes alike, and most tools return.
_PLAIN: Final = frozenset({bool, float, int, str, type(None)})

#: A pickle in pieces, and its out-of-band buffers.
Parcel = tuple[list[bytes], list[pickle.PickleBuffer]]


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # a class without types
    """Adds the context variables to what cloudpickle can do: by name, as what they stand for."""

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is ContextVar:
            return variable_at, variable_path(obj)
        return super().reducer_override(obj)


def pack_call(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, is_async: bool
) -> Parcel:
    """Pickle what a worker is to run; as `pack`."""
    # A function that goes by name; by value it can hold whatever its closure does.
    plain = type(function) is types.FunctionType and _PLAIN.issuperset(map(type, args))
    is_light = plain and _PLAIN.issuperset(map(type, kwargs.values()))
    return pack((function, args, kwargs, is_async), is_light=is_light)


def pack(thing: object, *, is_light: bool = False) -> Parcel:
    """Pickle `thing`, large buffers out of band.

    First as Python does it, which is fast; by cloudpickle where that cannot be done, or where the
    result names ``__main__``.

    Args:
        thing: what is to be pickled.
        is_light: nothing in it is worth to be kept from being copied; that takes half of the time.

    Raises:
        Exception: whatever the pickler, or a ``__reduce__``, says against it; see `blame`.
    """
    if type(thing) in _PLAIN:
        return _pickled_whole(thing)
    if type(thing) is bytes and len(thing) >= LARGE:
        thing = pickle.PickleBuffer(thing)  # unpickles as what the receiver makes of it: bytes
    if not cloudpickle.list_registry_pickle_by_value():
        try:
            parcel = _pickled_whole(thing) if is_light else _pickled_by(pickle.Pickler, thing)
        except Exception:
            pass  # a lambda, a closure, a class made in a function
        else:
            for piece in parcel[0]:
                if _MAIN in piece:
                    break
            else:
                return parcel
    return _pickled_by(_Pickler, thing)


def _pickled_whole(thing: object) -> Parcel:
    return [pickle.dumps(thing, 5)], []


def _pickled_by(pickler: Callable[..., Any], thing: object) -> Parcel:
    # The pickler writes without copying: large bytes come as the objects they are.
    pieces: list[bytes | pickle.PickleBuffer] = []
    buffers: list[pickle.PickleBuffer] = []

    def in_band(buffer: pickle.PickleBuffer) -> bool:
        if buffer.raw().nbytes < LARGE:
            return True
        buffers.append(buffer)
        return False

    to = types.SimpleNamespace(write=pieces.append)
    pickler(to, protocol=5, buffer_callback=in_band).dump(thing)
    # A buffer in band that fills a frame of the pickle (64 KiB) is written as what it is.
    return [bytes(one) if type(one) is pickle.PickleBuffer else one for one in pieces], buffers


def weight(parcel: Parcel) -> int:
    """Return how many bytes a parcel has, buffers and all."""
    pieces, buffers = parcel
    return sum(map(len, pieces)) + sum(buffer.raw().nbytes for buffer in buffers)


#: Make a thing of its pickle and its buffers again.
unpack = pickle.loads


def blame(error: Exception, function: Callable[..., Any], args: Any, kwargs: Any) -> Unshippable:
    """Say which part of a call could not be pickled."""
    parts = [(f"function {_name(function)!r}", function), *_arguments(function, args, kwargs)]
    return _blamed(error, parts, ran=False)


def blame_result(error: Exception, result: object) -> Unshippable:
    """Say which part of a result could not be pickled."""
    return _blamed(error, [("the result", result)], ran=True)


def blame_arrival(error: Exception) -> Unshippable:
    """Say why a call that could be pickled cannot be unpickled here."""
    why = f"it does not unpickle there: {type(error).__name__}: {error}"
    return Unshippable("the function or an argument", "an object", why)


# -- context variables ------------------------------------------------------------------------

_paths: dict[ContextVar[Any], tuple[str | None, str]] = {}
_unnamed: dict[str, ContextVar[Any]] = {}


def variable_path(variable: ContextVar[Any]) -> tuple[str | None, str]:
    """Return the module and the name under which a worker finds the same variable.

    The module is None for one that no module but ``__main__`` holds: it goes by its own name.
    """
    path = _paths.get(variable)
    if path is None:
        path = _paths[variable] = _search(variable)
    return path


def _search(variable: ContextVar[Any]) -> tuple[str | None, str]:
    for module, found in list(sys.modules.items()):
        if module in ("__main__", "__mp_main__"):
            continue
        names = getattr(found, "__dict__", None)
        for name, value in list(names.items()) if isinstance(names, dict) else ():
            if value is variable:
                return module, name
    return None, variable.name


def variable_at(module: str | None, name: str) -> ContextVar[Any]:
    """Return the variable of such a path in this process."""
    if module is not None:
        __import__(module)
        found = getattr(sys.modules[module], name)
        assert isinstance(found, ContextVar)
        return found
    return _unnamed.setdefault(name, ContextVar(name))


def variable_here(module: str | None, name: str) -> ContextVar[Any] | None:
    """Return the variable of such a path where something in this process may read it.

    That is: what has been unpickled refers to it, or its package has been imported.
    """
    if module is None:
        return _unnamed.get(name)
    if module.partition(".")[0] not in sys.modules:
        return None
    return variable_at(module, name)


# -- what cannot be pickled -------------------------------------------------------------------


def _blamed(error: Exception, parts: list[tuple[str, object]], *, ran: bool) -> Unshippable:
    """Go from the whole to the part that fails alone."""
    what, thing, why = parts[0][0], parts[0][1], error
    depth = 0
    while depth < _DEEPEST:
        for name, part in parts:
            failed = _failure(part)
            if failed is not None:
                what, thing, why = name, part, failed
                break
        else:
            break
        parts = list(_parts(what, thing))
        depth += 1
    kind = type(thing)
    named = kind.__qualname__ if kind.__module__ == "builtins" else _full_name(kind)
    return Unshippable(what, named, str(why) or type(why).__name__, ran=ran)


def _failure(thing: object) -> Exception | None:
    try:
        pack(thing)
    except Exception as error:
        return error
    return None


def _parts(what: str, thing: object) -> Iterator[tuple[str, object]]:
    """Yield what an object is made of, each with the words for where it stands."""
    if isinstance(thing, types.FunctionType):
        yield from _parts_of_function(thing)
    elif isinstance(thing, types.MethodType):
        yield f"{what}.__self__", thing.__self__
    elif isinstance(thing, functools.partial):
        yield f"{what}.func", thing.func
        yield from ((f"{what}.args[{index}]", part) for index, part in enumerate(thing.args))
        yield from ((f"{what}.keywords[{key!r}]", part) for key, part in thing.keywords.items())
    elif isinstance(thing, Mapping):
        yield from ((f"{what}[{key!r}]", part) for key, part in thing.items())
    elif isinstance(thing, list | tuple):
        yield from ((f"{what}[{index}]", part) for index, part in enumerate(thing))
    elif isinstance(thing, set | frozenset):
        yield from ((f"an item of {what}", part) for part in thing)
    elif not isinstance(thing, type | types.ModuleType):
        for held in ("__dict__", "__pydantic_private__"):
            attributes = getattr(thing, held, None) or {}
            yield from ((f"{what}.{name}", part) for name, part in attributes.items())


def _parts_of_function(function: types.FunctionType) -> Iterator[tuple[str, object]]:
    name = _name(function)
    known = inspect.getclosurevars(function)
    for variable, value in known.nonlocals.items():
        yield f"closure variable {variable!r} of {name!r}", value
    for variable, value in known.globals.items():
        yield f"global variable {variable!r} of {name!r}", value
    for index, value in enumerate(function.__defaults__ or ()):
        yield f"default {index + 1} of {name!r}", value
    for variable, value in (function.__kwdefaults__ or {}).items():
        yield f"default of {variable!r} of {name!r}", value
    for attribute, value in vars(function).items():
        yield f"{name}.{attribute}", value


def _arguments(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[tuple[str, object]]:
    try:
        bound = inspect.signature(function).bind(*args, **kwargs).arguments
    except (TypeError, ValueError):
        given = {str(index + 1): value for index, value in enumerate(args)} | kwargs
        return [(f"argument {name!r}", value) for name, value in given.items()]
    return [(f"argument {name!r}", value) for name, value in bound.items()]


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", None) or type(function).__name__


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
