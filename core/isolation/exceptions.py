"""Exceptions in parts: class, arguments, attributes, cause and context.

By default pickle calls the class of an exception with ``args``. A class with an ``__init__`` of its
own refuses that, or makes another text of it. Here the other process makes the instance without
calling a method of the class: it calls ``__new__`` and ``__init__`` of the builtin exception that
the class derives from, and sets the attributes. Many packages need this: httpx, openai and mcp have
such classes.
"""

from __future__ import annotations

import sys
import traceback
import types
from typing import Any

from cloudpickle import cloudpickle

from agentcgroup import isolation
from agentcgroup.errors import RemoteError

__all__ = ["attributes", "complete", "made", "reduce", "summary"]

#: Classes for which a handler catches everything: they do not stand for a class of the tool's.
_BROAD = (BaseException, Exception)


def reduce(error: BaseException) -> Any:
    """Return how to pickle an exception, in the form of `object.__reduce__`.

    A worker replaces an exception whose class exists in the worker alone: by one of the nearest
    base class, and by a `RemoteError` where that is Exception itself. The app must not get the code
    of a class that a tool has made.
    """
    kind = _known(type(error))
    if kind in _BROAD and type(error) is not kind:
        return RemoteError, (summary(error),)
    args, state = attributes(error)
    try:
        made(kind, args)
    except Exception:  # a class of an extension, which has a __new__ of its own
        return error.__reduce_ex__(5)
    links = error.__cause__, error.__context__, error.__suppress_context__
    # Behind the instance, since an exception may lead to itself.
    return made, (kind, args), (state, *links), None, None, complete


def summary(error: BaseException) -> str:
    """Return type and text of an exception in one line."""
    return traceback.format_exception_only(type(error), error)[-1].strip()


def attributes(error: BaseException) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments that the builtin base class takes, and the attributes by name."""
    base = _builtin_base(type(error))
    # By the base class: OSError and ImportError have attributes outside of __dict__.
    _, args, *rest = base.__reduce__(error)
    state = dict(rest[0]) if rest and rest[0] else dict(error.__dict__)
    if isinstance(error, AttributeError | NameError):
        state["name"] = error.name
    for kind in type(error).__mro__:
        for name, member in vars(kind).items() if not issubclass(base, kind) else ():
            if isinstance(member, types.MemberDescriptorType) and hasattr(error, name):
                state[name] = getattr(error, name)
    return args, state


def made(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    """Return an instance of `kind`, made as its builtin base class makes one."""
    base = _builtin_base(kind)
    error: BaseException = base.__new__(kind, *args)
    base.__init__(error, *args)
    return error


def complete(error: BaseException, parts: tuple[Any, Any, Any, bool]) -> None:
    """Set what `made` has not set; no property and no ``__setattr__`` of the class runs.

    Args:
        error: the exception.
        parts: its attributes by name, ``__cause__``, ``__context__`` and ``__suppress_context__``.
    """
    state, *links = parts
    names = ("__cause__", "__context__", "__suppress_context__")
    for name, value in zip(names, links, strict=True):
        BaseException.__setattr__(error, name, value)
    for name, value in state.items():
        member = _member(type(error), name)
        if member is None:
            error.__dict__[name] = value
        else:
            member.__set__(error, value)


def _member(kind: type, name: str) -> Any:
    """Return the descriptor of a slot, or of an attribute that a builtin class keeps in C."""
    for base in kind.__mro__:
        found = vars(base).get(name)
        if isinstance(found, types.MemberDescriptorType | types.GetSetDescriptorType):
            return found
    return None


def _builtin_base(kind: type[BaseException]) -> Any:
    """Return the nearest base class that Python itself has."""
    return next(base for base in kind.__mro__ if base.__module__ == "builtins" and _static(base))


def _static(kind: type) -> bool:
    return not kind.__flags__ & 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement


def _known(kind: type[BaseException]) -> type[BaseException]:
    """Return the nearest class of the MRO that the other process has or can import."""
    if not isolation.inside():
        return kind  # the worker gets by value what it cannot import
    return next(one for one in kind.__mro__ if _is_importable(one) or _came_by_value(one))


def _is_importable(kind: type) -> bool:
    if kind.__module__ == "__main__":
        return False
    found: Any = sys.modules.get(kind.__module__)
    for name in kind.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is kind


def _came_by_value(kind: type) -> bool:
    """Return whether the app has sent the class: cloudpickle then keeps its number."""
    return kind in getattr(cloudpickle, "_DYNAMIC_CLASS_TRACKER_BY_CLASS", ())
