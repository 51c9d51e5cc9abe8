"""The exception of a tool's body, sent from its worker to the app with its traceback."""

from __future__ import annotations

import pickle
import traceback
from typing import Any, Final

from agentcgroup.errors import RemoteError
from agentcgroup.isolation import exceptions, pickling
from agentcgroup.isolation.substitutes import Absent

__all__ = ["pack", "unpack"]

#: Levels of exceptions in exceptions, and of causes, that are searched.
_DEEPEST: Final = 100
_NOT_SENT: Final = (
    "was not sent out of the worker process, because it does not unpickle. Fix: make it picklable"
)


class _RemoteTraceback(Exception):
    """The traceback in the worker, as the cause of the exception in the app."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def pack(error: BaseException) -> bytes:
    """In the worker: pickle an exception and its traceback.

    An exception that does not unpickle goes without its cause, and with an `Absent` for each
    attribute that does not unpickle; a `RemoteError` replaces one that fails even so.
    """
    formatted = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    summary = exceptions.summary(error)
    packed = _packed(error)
    if packed is None:
        try:
            packed = _packed(_thinned(error))
        except Exception:  # a class that takes no substitute, or has too deep a nesting
            packed = None
    if packed is None:
        packed = pickle.dumps(RemoteError(summary), 5)
    return pickle.dumps((packed, formatted, summary), 5)


def unpack(pickled: bytes | memoryview) -> BaseException:
    """In the app: return the exception that `pack` has pickled.

    The worker's traceback is its cause, or the cause of the last one of its causes. What is no
    `Exception` would end the app, or cancel the task that waits: a `RemoteError` replaces it.
    """
    try:
        packed, formatted, summary = pickle.loads(pickled)
    except pickling.FAULTS as fault:  # not of `pack`
        return RemoteError(f"the worker process sent an exception that cannot be read: {fault!r}")
    try:
        error: BaseException = pickle.loads(packed)
    except pickling.FAULTS as fault:
        error = RemoteError(f"{summary} (an exception that the app cannot unpickle: {fault!r})")
    if not isinstance(error, Exception):
        error = RemoteError(summary)
    last: BaseException = error
    for _ in range(_DEEPEST):
        if last.__cause__ is None or last.__cause__ is error:
            break
        last = last.__cause__
    BaseException.__setattr__(last, "__cause__", _RemoteTraceback(formatted))  # not the class's own
    return error


def _packed(error: BaseException) -> bytes | None:
    """Pickle an exception; None where it does not unpickle, as many objects that pickle."""
    try:
        packed = b"".join(pickling.pack(error)[0])
        if isinstance(pickling.unpack(packed), BaseException):
            return packed
    except Exception:
        pass
    return None


def _thinned(error: BaseException, depth: int = 0) -> BaseException:
    """Return a copy of an exception with substitutes for what does not unpickle."""
    if depth > _DEEPEST:
        raise RecursionError
    kind = type(error)

    def portable(what: str, value: Any) -> Any:
        if isinstance(value, BaseException):
            return _thinned(value, depth + 1)
        if isinstance(value, list | tuple) and isinstance(next(iter(value), None), BaseException):
            return [portable(what, one) for one in value]  # as of an exception group
        try:
            pickling.unpack(b"".join(pickling.pack(value)[0]))
        except Exception:
            missing = f"{what} of {kind.__qualname__!r} ({type(value).__qualname__})"
            return Absent(missing, _NOT_SENT)
        return value

    args, state = exceptions.attributes(error)
    thin = [portable(f"argument {index + 1}", value) for index, value in enumerate(args)]
    copy = exceptions.made(kind, tuple(thin))
    state = {name: portable(f"attribute {name!r}", state[name]) for name in state}
    exceptions.complete(copy, (state, None, None, error.__suppress_context__))
    return copy
