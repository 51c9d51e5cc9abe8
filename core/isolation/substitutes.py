"""Objects that go to a worker in place of objects that cannot be pickled.

The worker unpickles them, so this module imports next to nothing.
"""

from __future__ import annotations

import asyncio
import inspect
import types
from collections.abc import Awaitable, Callable
from typing import Any, Final

__all__ = ["Absent", "Afresh", "Method", "silent"]

#: Immutable types: two values of them are compared as they are.
_PLAIN: Final = (bool, bytes, float, int, str, types.NoneType)
#: Bytes of pickled attributes beyond which a tool is not searched for changes.
_COMPARED_MAX: Final = 1 << 20


class Method:
    """A method of a tool as a body, sent with the tool.

    It returns a pair: the method's result, and the names of the tool's attributes that the method
    has changed. Such a change is lost, because the app keeps its own tool.
    """

    def __init__(self, tool: Any, method: str, *, is_async: bool) -> None:
        self.tool = tool
        self.method = method
        self.is_async = is_async
        self.__name__ = f"{type(tool).__name__}.{method}"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the method; return an awaitable where the app awaits one."""
        before = _fingerprints(self.tool)
        result = getattr(self.tool, self.method)(*args, **kwargs)
        if self.is_async:
            return self._awaited(before, result)
        if inspect.iscoroutine(
            result
        ):  # the framework would await it, but no coroutine leaves a process
            result = asyncio.run(result)
        return result, _changed(before, _fingerprints(self.tool))

    async def _awaited(self, before: dict[str, Any], result: Awaitable[Any]) -> Any:
        return await result, _changed(before, _fingerprints(self.tool))


class Afresh:
    """Replaces an object that the worker can make for itself: it unpickles as ``make()``."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    def __reduce__(self) -> tuple[Any, ...]:
        return self._make, ()


class Absent:
    """Replaces an object that stays in the other process: any use of it raises RuntimeError."""

    def __init__(
        self,
        what: str,
        why: str = "is not to be had in a worker process, only in the app. Fix: read it before the "
        "tool",
    ) -> None:
        """Make a substitute.

        Args:
            what: the words by which the error names the object.
            why: the words that follow them.
        """
        self.__dict__["_words"] = what, why

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)  # copy, pickle and the like look for these
        text = " ".join(self.__dict__["_words"])
        raise RuntimeError(f'{text}, or run the tool with isolation = "inline".')

    def __reduce__(self) -> tuple[Any, ...]:
        return Absent, self.__dict__["_words"]


def silent(*_args: object, **_kwargs: object) -> None:
    """Do nothing; replaces a function that would send something to the app."""


def _fingerprints(tool: Any) -> dict[str, Any]:
    """Return a value for each attribute that differs once the attribute has changed.

    Such values are only comparable in this process. The dict is empty for a tool that is too large.
    """
    attributes = {**vars(tool), **(getattr(tool, "__pydantic_private__", None) or {})}
    found: dict[str, Any] = {}
    left = _COMPARED_MAX
    for name, value in attributes.items():
        found[name] = one = _fingerprint(value)
        left -= len(one) if isinstance(one, bytes) else 0
        if left < 0:
            return {}
    return found


def _fingerprint(value: Any) -> Any:
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
    """Return the sorted names of the attributes that have changed."""
    if not before or not after:
        return []
    names = before.keys() | after.keys()
    pairs = ((name, before.get(name), after.get(name)) for name in names)
    # By identity first: NaN is not equal to itself.
    return sorted(name for name, old, new in pairs if old is not new and old != new)
