"""The exception of a tool's body, sent from its worker to the app with its traceback."""

from __future__ import annotations

import pickle
import traceback

from agentcgroup.errors import RemoteError
from agentcgroup.isolation import pickling

__all__ = ["pack", "unpack"]


class _RemoteTraceback(Exception):
    """The traceback in the worker, as the cause of the exception in the app."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def pack(error: BaseException) -> bytes:
    """In the worker: pickle an exception and its traceback.

    A `RemoteError` with its type and text replaces an exception that does not unpickle.
    """
    formatted = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    try:
        packed = b"".join(pickling.pack(error)[0])
        unpacked = pickling.unpack(packed)  # many exceptions pickle and do not unpickle
        if not isinstance(unpacked, BaseException):
            raise TypeError(f"{type(error).__name__} unpickles as {type(unpacked).__name__}")
    except Exception:
        summary = traceback.format_exception_only(type(error), error)[-1].strip()
        packed = pickle.dumps(RemoteError(summary), 5)
    return pickle.dumps((packed, formatted), 5)


def unpack(pickled: bytes | memoryview) -> BaseException:
    """In the app: return the exception that `pack` has pickled, with the traceback as its cause."""
    packed, formatted = pickle.loads(pickled)
    try:
        error: BaseException = pickle.loads(packed)
    except Exception as fault:
        error = RemoteError(f"an exception that the app cannot unpickle ({fault})")
    error.__cause__ = _RemoteTraceback(formatted)
    return error
