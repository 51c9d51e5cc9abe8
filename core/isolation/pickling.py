"""Pickle what goes between the app and a worker.

The plain pickler is tried first, because it is fast; cloudpickle pickles the rest. cloudpickle
pickles functions and classes of ``__main__``, lambdas and closures by value, so that no worker runs
the user's script again and the script needs no ``if __name__ == "__main__"``. What can be imported
goes by name. An object of a class that went by value comes back as an object of the same class.

`exceptions` and `sentinels` reduce what the pickler would break without an error.
"""

from __future__ import annotations

import copyreg
import operator
import pickle
import types
from asyncio import CancelledError
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, Final

import cloudpickle

from agentcgroup.isolation import context_variables, exceptions, importable, sentinels
from agentcgroup.isolation.channel import OUT_OF_BAND_MIN

__all__ = ["FAULTS", "Payload", "pack", "pack_call", "size", "unpack"]

#: The module by which the plain pickler names what no worker can import.
_MAIN: Final = b"__main__"
#: Types that both picklers pickle alike, and that most tools return.
_PLAIN: Final = frozenset({bool, float, int, str, type(None)})

#: What unpickling may raise, by an object's own code, that must not reach the app: `SystemExit`
#: would end it. `KeyboardInterrupt` is the user's.
FAULTS: Final = (Exception, SystemExit, GeneratorExit, CancelledError)

#: A pickle in pieces, and its out-of-band buffers.
Payload = tuple[list[bytes], list[pickle.PickleBuffer]]


#: Reduces an object as the pickler does by itself.
_by_default: Final = operator.methodcaller("__reduce_ex__", 5)
#: Types whose reducers are remembered.
_REMEMBERED_MAX: Final = 2000


class _Reducers(dict[type, Callable[[Any], Any]]):
    """A pickler's table of reducers by type, which is filled when a type is met first.

    A pickler looks each object's type up in C: a `reducer_override` would run for each object.
    """

    def __init__(self, registered: Mapping[type, Callable[[Any], Any]]) -> None:
        super().__init__()
        self._registered = registered
        self._count = len(copyreg.dispatch_table)

    def fresh(self) -> _Reducers:
        """Return this table, emptied where a library has registered a reducer since."""
        if len(self) > _REMEMBERED_MAX or self._count != len(copyreg.dispatch_table):
            self._count = len(copyreg.dispatch_table)
            self.clear()
        return self

    def __missing__(self, kind: type) -> Callable[[Any], Any]:
        if issubclass(kind, type):
            raise KeyError(kind)  # the pickler pickles classes by name
        found = self._registered.get(kind)
        if found is None and issubclass(kind, BaseException):
            found = exceptions.reduce
        self[kind] = found = found or sentinels.reducer(kind) or _by_default
        return found


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # a class without types
    """cloudpickle's pickler; it also pickles context variables, by their paths."""

    dispatch_table = _Reducers(cloudpickle.Pickler.dispatch_table)

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is ContextVar:
            return context_variables.at, context_variables.path_of(obj)
        return super().reducer_override(obj)


def pack_call(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, is_async: bool
) -> Payload:
    """Pickle a call for `worker`; raises as `pack`."""
    importable.check(function)
    # A function that goes by name is light; one that goes by value holds what its closure holds.
    plain = type(function) is types.FunctionType and _PLAIN.issuperset(map(type, args))
    is_light = plain and _PLAIN.issuperset(map(type, kwargs.values()))
    return pack((function, args, kwargs, is_async), is_light=is_light)


def pack(thing: object, *, is_light: bool = False) -> Payload:
    """Pickle `thing`, with large buffers out of band.

    cloudpickle does it where the plain pickler fails, or where its result names ``__main__``.

    Args:
        thing: the object.
        is_light: the object holds no large buffer; without the search for one, pickling takes half
            of the time.

    Raises:
        Exception: any that the pickler or a ``__reduce__`` raises; see `unpicklable`.
    """
    if type(thing) in _PLAIN:
        return _pickled_whole(thing)
    if type(thing) is bytes and len(thing) >= OUT_OF_BAND_MIN:
        thing = pickle.PickleBuffer(thing)  # unpickles as bytes: see `buffers.allocate`
    if not cloudpickle.list_registry_pickle_by_value():
        try:
            payload = _pickled_whole(thing) if is_light else _pickled_by(_plain_pickler, thing)
        except Exception:
            pass  # a lambda, a closure, a class made in a function
        else:
            for piece in payload[0]:
                if _MAIN in piece:
                    break
            else:
                return payload
    _Pickler.dispatch_table.fresh()
    return _pickled_by(_Pickler, thing)


_reducers: Final = _Reducers(copyreg.dispatch_table)


def _plain_pickler(to: Any, **options: Any) -> pickle.Pickler:
    pickler = pickle.Pickler(to, **options)
    pickler.dispatch_table = _reducers.fresh()
    return pickler


def _pickled_whole(thing: object) -> Payload:
    return [pickle.dumps(thing, 5)], []


def _pickled_by(pickler: Callable[..., Any], thing: object) -> Payload:
    """Pickle in pieces, with buffers of OUT_OF_BAND_MIN bytes and more out of band."""
    # The pickler passes large bytes objects to write() without copying them.
    pieces: list[bytes | pickle.PickleBuffer] = []
    buffers: list[pickle.PickleBuffer] = []

    def in_band(buffer: pickle.PickleBuffer) -> bool:
        if buffer.raw().nbytes < OUT_OF_BAND_MIN:
            return True
        buffers.append(buffer)
        return False

    to = types.SimpleNamespace(write=pieces.append)
    pickler(to, protocol=5, buffer_callback=in_band).dump(thing)
    # It passes a buffer in band that fills a frame of the pickle (64 KiB) as a PickleBuffer.
    return [bytes(one) if type(one) is pickle.PickleBuffer else one for one in pieces], buffers


def size(payload: Payload) -> int:
    """Return the bytes of a payload, its buffers included."""
    pieces, buffers = payload
    return sum(map(len, pieces)) + sum(buffer.raw().nbytes for buffer in buffers)


#: Takes a pickle and its buffers, returns the object.
unpack = pickle.loads
