"""What goes along with a tool's body to a worker, and stands there for what cannot.

Imported by the worker, so it imports next to nothing.
"""

from __future__ import annotations

import asyncio
import inspect
import types
from collections.abc import Awaitable, Callable
from typing import Any, Final

__all__ = ["Absent", "Afresh", "Method", "silent"]

#: Values that nobody can change: kept as they are to be compared later.
_PLAIN: Final = (bool, bytes, float, int, str, types.NoneType)
#: Bytes of an instance beyond which looking for a change would cost more than it tells.
_LOOKED_AT: Final = 1 << 20


class Method:
    """A method of a tool, with the tool: as a body it returns its result and what it has changed.

    The second is the names of those attributes of the tool that were different afterwards, which
    the app's tool never gets.
    """

    def __init__(self, tool: Any, method: str, *, is_async: bool) -> None:
        self.tool = tool
        self.method = method
        self.is_async = is_async
        self.__name__ = f"{type(tool).__name__}.{method}"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it; a coroutine where the app awaits one."""
        before = _looks(self.tool)
        result = getattr(self.tool, self.method)(*args, **kwargs)
        if self.is_async:
            return self._later(before, result)
        if inspect.iscoroutine(result):  # the app would have run it, which is in another process
            result = asyncio.run(result)
        return result, _changed(before, _looks(self.tool))

    async def _later(self, before: dict[str, Any], result: Awaitable[Any]) -> Any:
        return await result, _changed(before, _looks(self.tool))


class Afresh:
    """Stands for an object that cannot go along: the worker makes one of its own."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    def __reduce__(self) -> tuple[Any, ...]:
        return self._make, ()


class Absent:
    """Stands for an object that lives in the app alone: using it says so."""

    def __init__(self, what: str) -> None:
        self.__dict__["_what"] = what

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)  # asked by copy, pickle and the like
        raise RuntimeError(
            f"{self.__dict__['_what']} is not to be had in a worker process, only in the app. Fix: "
            'read it before the tool, or run the tool with isolation = "inline".'
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return Absent, (self.__dict__["_what"],)


def silent(*_args: object, **_kwargs: object) -> None:
    """Do nothing, in place of a function that would speak to the app."""


def _looks(tool: Any) -> dict[str, Any]:
    """Return what each attribute looks like, good for one comparison in this process."""
    attributes = {**vars(tool), **(getattr(tool, "__pydantic_private__", None) or {})}
    looks: dict[str, Any] = {}
    left = _LOOKED_AT
    for name, value in attributes.items():
        looks[name] = look = _look(value)
        left -= len(look) if isinstance(look, bytes) else 0
        if left < 0:
            return {}
    return looks


def _look(value: Any) -> Any:
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, type | types.FunctionType):
        return id(value)
    import cloudpickle  # the app imports this module, too, and may never need it

    try:
        return cloudpickle.dumps(value)
    except Exception:
        return id(value)


def _changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    if not before or not after:
        return []
    names = before.keys() | after.keys()
    looks = ((name, before.get(name), after.get(name)) for name in names)
    return sorted(name for name, old, new in looks if old is not new and old != new)  # NaN is not
