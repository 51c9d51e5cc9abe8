"""A worker: waits for a call, runs the tool's body, sends back what came of it.

It runs on in the zygote's fork, in the cgroup of the call from its birth on, and knows nothing of
either. Its end is `os._exit`: what the zygote had imported has nothing to tidy up in a copy.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import inspect
import os
import select
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pickle import PickleBuffer
from typing import Any, Final, NoReturn

from agentcgroup.isolation import environment, pickling
from agentcgroup.isolation.channel import Channel, Message

__all__ = [
    "BAGGAGE",
    "CALL",
    "FAILURE",
    "LAST_CALL",
    "LEARNED",
    "RESULT",
    "UNSHIPPABLE",
    "serve",
]

# Kinds of messages. To a worker: its surroundings; a call; a call after which it may go.
BAGGAGE: Final = b"B"
CALL: Final = b"c"
LAST_CALL: Final = b"C"
# From a worker, beside those of `carry`: a result, an exception, what cannot be shipped, and the
# modules that the body has imported.
RESULT: Final = b"R"
FAILURE: Final = b"E"
UNSHIPPABLE: Final = b"U"
LEARNED: Final = b"M"

#: When the zygote began, which imports this.
_BEGAN: Final = time.time()
#: Milliseconds from an answer to the worker's end: less than the janitor waits before it clears up.
_ASIDE_MS: Final = 8


def serve(channel: Channel, folder: str, known: set[str]) -> NoReturn:
    """Serve calls until the last one, or until the app has gone.

    Args:
        channel: to the app.
        folder: for temporary files, made here and removed by the app.
        known: modules that the zygote has, or will have.
    """
    here = os.getpid()
    try:
        environment.speak_through(channel)
        _keep_temporary_files_in(folder)
        _warm_up()
        gc.enable()
        modules = len(sys.modules)
        while (message := channel.receive()) is not None:
            if message.kind == BAGGAGE:
                environment.dress(pickling.unpack(message.pickle))
                os.environ["TMPDIR"] = folder
                continue
            channel.send(*_outcome(message, here))
            # The app wakes up on this processor, if the others rest, once we have left it.
            if len(sys.modules) != modules:
                _tell_learned(channel, known)
                modules = len(sys.modules)
            if message.kind == LAST_CALL:
                _step_aside(channel)
                break
    finally:
        os._exit(0)


#: Kind, pieces and buffers of a message.
_Answer = tuple[bytes, Sequence[bytes], Sequence[PickleBuffer]]


def _outcome(message: Message, here: int) -> _Answer:
    """Run one call and return what came of it."""
    try:
        function, args, kwargs, is_async = pickling.unpack(message.pickle, buffers=message.buffers)
    except Exception as error:  # of a module that the app alone can import, say
        return UNSHIPPABLE, [environment.failure(pickling.blame_arrival(error))], ()
    try:
        context = contextvars.copy_context()  # which the next call has no part in
        if environment.waiting:
            context.run(environment.put_on_context)
        if is_async:
            result = context.run(asyncio.run, _await(function, args, kwargs))
        else:
            result = context.run(function, *args, **kwargs)
    except BaseException as error:
        _leave_forks(here)
        _flush()
        return FAILURE, [environment.failure(error)], ()
    _leave_forks(here)
    _flush()
    try:
        return RESULT, *pickling.pack(result)
    except Exception as error:
        return UNSHIPPABLE, [environment.failure(pickling.blame_result(error, result))], ()


def _step_aside(channel: Channel) -> None:
    """Wait a moment with the end: to take a process apart holds up the calls of a burst."""
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    poll.poll(_ASIDE_MS)


def _leave_forks(here: int) -> None:
    """End a fork that the tool has let run on: the result is the worker's to give."""
    if os.getpid() != here:
        os._exit(0)


async def _await(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    result = function(*args, **kwargs)
    return await result if inspect.isawaitable(result) else result


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            continue  # closed, or something of the tool's own


def _tell_learned(channel: Channel, known: set[str]) -> None:
    """Name the modules that the next workers had better have from the start."""
    new = [name for name in list(sys.modules) if name not in known]
    known.update(new)
    learned = [name for name in new if _is_older(name)]
    if learned:
        channel.send(LEARNED, ["\n".join(learned).encode()])


def _is_older(name: str) -> bool:
    """Say whether a module was there before the zygote, and so is none that a tool has written.

    Of such a one the next call may write another; and to run it is for the call, with its limits.
    """
    try:
        spec = sys.modules[name].__spec__
        if spec is None:  # put together in memory
            return False
        return not spec.has_location or os.stat(spec.origin or "").st_ctime < _BEGAN
    except Exception:  # the file has gone, or what stands there for a module is none
        return False


def _keep_temporary_files_in(folder: str) -> None:
    try:
        os.mkdir(folder, 0o700)
    except FileNotFoundError:  # what clears old files away has had the one above
        with contextlib.suppress(FileExistsError):  # another worker was faster
            os.mkdir(os.path.dirname(folder), 0o700)
        os.mkdir(folder, 0o700)
    os.environ["TMPDIR"] = folder
    tempfile.tempdir = None


def _nothing() -> None:
    """Do what a call is warmed up with."""


def _warm_up() -> None:
    """Touch now what a call will touch: after a fork, each first write to a page copies it."""
    near, end = Channel.pair()
    far = Channel(end)
    near.send(CALL, *pickling.pack((_nothing, (), {}, False)))
    message = far.receive()
    assert message is not None
    far.send(*_outcome(message, os.getpid()))
    near.close()
    far.close()
