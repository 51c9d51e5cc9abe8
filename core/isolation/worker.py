"""The code of a worker process: it waits for a call, runs the tool's body, sends the result.

It runs in a fork of the fork server, which is in the call's cgroup from its birth, and has no code
for cgroups or limits. It ends by `os._exit`: the exit handlers of modules that the fork server has
imported belong to the fork server.
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
from collections.abc import Callable, Sequence
from pickle import PickleBuffer
from typing import Any, Final, NoReturn

from agentcgroup.isolation import (
    context_variables,
    environment,
    failures,
    output,
    pickling,
    unpicklable,
)
from agentcgroup.isolation.channel import Channel
from agentcgroup.isolation.messages import Message
from agentcgroup.isolation.protocol import (
    CALL,
    ENVIRONMENT,
    FAILURE,
    IMPORTED,
    IMPORTING,
    LAST_CALL,
    LEARNED,
    RESULT,
    UNSHIPPABLE,
)
from agentcgroup.threads import poll

__all__ = ["serve"]

#: Milliseconds from the last answer to the worker's exit: less than the time after which the app
#: removes the call's cgroup.
_EXIT_DELAY_MS: Final = 8
#: Names of modules in one message: a large one would wait for a reply, which the app does not give
#: once the call is over.
_NAMES_MAX: Final = 200
#: Modules whose names are sent before the answer. To look up more takes milliseconds, in which the
#: app may end this process; their import has taken a hundred times as long.
_MANY: Final = 100


def serve(channel: Channel, folder: str, known: set[str]) -> NoReturn:
    """Serve calls until the last one, or until the app closes its end.

    Args:
        channel: to the app.
        folder: for temporary files; made here and removed by the app.
        known: names of the modules that the fork server has imported or has tried to.
    """
    here = os.getpid()
    try:
        output.redirect(channel)
        _use_temporary_folder(folder)
        _warm_up()
        gc.enable()
        modules = len(sys.modules)
        while (message := channel.receive()) is not None:
            if message.kind == ENVIRONMENT:
                environment.apply(pickling.unpack(message.pickle))
                os.environ["TMPDIR"] = folder
                continue
            answer = _answer(message, here, channel)
            if len(sys.modules) - modules > _MANY:
                _send_learned(channel, known)
                modules = len(sys.modules)
            channel.send(*answer)
            # Where the other processors sleep, the scheduler wakes the app on this one: the app
            # reads the answer only when this process blocks, so little may follow.
            if len(sys.modules) != modules:
                _send_learned(channel, known)
                modules = len(sys.modules)
            if message.kind == LAST_CALL:
                _delay_exit(channel)
                break
    finally:
        os._exit(0)


#: Kind, pieces and buffers of a message.
_Answer = tuple[bytes, Sequence[bytes], Sequence[PickleBuffer]]


class _ImportNotice:
    """A finder that finds nothing: at the first import of a call's modules it tells the app.

    Python asks it only for modules that are not imported yet.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.sent = False

    def find_spec(self, *_: object) -> None:
        if not self.sent:
            self.sent = True
            self._channel.send(IMPORTING, [b""])


def _unpacked(message: Message, channel: Channel) -> Any:
    """Unpickle a call, which imports the tool's modules; the app does not count that time."""
    notice: Any = _ImportNotice(channel)
    sys.meta_path.insert(0, notice)
    try:
        return pickling.unpack(message.pickle, buffers=message.buffers)
    finally:
        with contextlib.suppress(ValueError):
            sys.meta_path.remove(notice)
        if notice.sent:
            channel.send(IMPORTED, [b""])


def _answer(message: Message, here: int, channel: Channel) -> _Answer:
    """Run the body of one call and return the answer to it."""
    try:
        function, args, kwargs, is_async = _unpacked(message, channel)
    except Exception as error:  # such as of a module that only the app can import
        return UNSHIPPABLE, [failures.pack(unpicklable.in_worker(error))], ()
    try:
        context = contextvars.copy_context()  # the next call has another copy
        if context_variables.pending:
            context.run(context_variables.apply_pending)
        if is_async:
            result = context.run(asyncio.run, _await(function, args, kwargs))
        else:
            result = context.run(function, *args, **kwargs)
    except BaseException as error:
        _exit_in_fork(here)
        _flush()
        return FAILURE, [failures.pack(error)], ()
    _exit_in_fork(here)
    _flush()
    try:
        return RESULT, *pickling.pack(result)
    except Exception as error:
        return UNSHIPPABLE, [failures.pack(unpicklable.in_result(error, result))], ()


def _delay_exit(channel: Channel) -> None:
    """Wait a moment before the exit: the kernel's work for it delays other calls of a burst."""
    events = poll()
    events.register(channel, select.POLLIN)
    events.poll(_EXIT_DELAY_MS)


def _exit_in_fork(here: int) -> None:
    """End a fork of this worker that has returned from the body: only the worker answers."""
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
            continue  # closed, or an object of the tool's


def _send_learned(channel: Channel, known: set[str]) -> None:
    """Send the names of modules for later workers; the app decides which may be imported."""
    new = [name for name in list(sys.modules) if name not in known]
    known.update(new)
    for start in range(0, len(new), _NAMES_MAX):
        channel.send(LEARNED, ["\n".join(new[start : start + _NAMES_MAX]).encode()])


def _use_temporary_folder(folder: str) -> None:
    try:
        os.mkdir(folder, 0o700)
    except FileNotFoundError:  # a cleaner of old temporary files has removed the one above
        with contextlib.suppress(FileExistsError):  # another worker was faster
            os.mkdir(os.path.dirname(folder), 0o700)
        os.mkdir(folder, 0o700)
    os.environ["TMPDIR"] = folder
    tempfile.tempdir = None


def _nothing() -> None:
    """Do nothing; the body of the call by which a worker warms up."""


def _warm_up() -> None:
    """Run a call before the first one: after a fork, the first write to each page copies it."""
    near, end = Channel.pair()
    far = Channel(end)
    near.send(CALL, *pickling.pack((_nothing, (), {}, False)))
    message = far.receive()
    assert message is not None
    far.send(*_answer(message, os.getpid(), far))
    near.close()
    far.close()
