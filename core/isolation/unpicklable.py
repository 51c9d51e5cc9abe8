"""Find the part of a call or of a result that cannot be pickled, for the error that names it."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from agentcgroup.errors import Unshippable
from agentcgroup.isolation.pickling import pack

__all__ = ["in_call", "in_result", "in_worker"]

#: Levels of nesting that are searched.
_DEEPEST: Final = 12


def in_call(error: Exception, function: Callable[..., Any], args: Any, kwargs: Any) -> Unshippable:
    """Return the error for a call that could not be pickled: it names the part that cannot be.

    Args:
        error: what `pickling.pack` has raised.
        function: the body.
        args: its positional arguments, a tuple.
        kwargs: its keyword arguments, a dict.
    """
    parts = [(f"function {_name(function)!r}", function), *_arguments(function, args, kwargs)]
    return _found(error, parts, ran=False)


def in_result(error: Exception, result: object) -> Unshippable:
    """Return the error for a result that could not be pickled."""
    return _found(error, [("the result", result)], ran=True)


def in_worker(error: Exception) -> Unshippable:
    """Return the error for a call that could not be unpickled in its worker."""
    why = f"the worker cannot unpickle it: {type(error).__name__}: {error}"
    return Unshippable("the function or an argument", "an object", why)


def _found(error: Exception, parts: list[tuple[str, object]], *, ran: bool) -> Unshippable:
    """Search the parts, and the parts of a part that fails, for the innermost one that fails."""
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
    """Return what pickling an object raises; None where that works."""
    try:
        pack(thing)
    except Exception as error:
        return error
    return None


def _parts(what: str, thing: object) -> Iterator[tuple[str, object]]:
    """Yield the parts of an object, each with the words that say where it is."""
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
