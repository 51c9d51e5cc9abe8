"""What a tool finds around itself, taken along: where it stands, what it says, how it fails.

On the way there: working directory, environment, import path, log levels and context variables, as
they are at the call; what is as it was when the zygote started is not sent. On the way back:
what the tool prints and logs, in order and as it happens, and its exception with the traceback.
"""

from __future__ import annotations

import contextvars
import io
import logging
import operator
import os
import pickle
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, TextIO

from agentcgroup import scope
from agentcgroup.errors import RemoteError
from agentcgroup.isolation import pickling
from agentcgroup.isolation.channel import Channel, Message

__all__ = [
    "ERR",
    "LOG",
    "OUT",
    "Baggage",
    "Surroundings",
    "dress",
    "failure",
    "put_on_context",
    "relay",
    "revived",
    "speak_through",
    "waiting",
]

#: Kinds of messages: text for stdout, for stderr, a log record.
OUT: Final = b"O"
ERR: Final = b"o"
LOG: Final = b"L"

#: Context variables of ours stay behind: the worker is inside its call already.
_US: Final = __name__.partition(".")[0]
_OURS: Final = frozenset({scope.current, scope.agent, scope.call_group})
#: Seconds for which the levels of all loggers are taken as known.
_LEVELS_KEPT: Final = 1.0

#: What differs from the zygote's start: folder, environment, import path, log levels, context.
Baggage = Mapping[str, Any]
#: What of it stays with a worker, by the names of `Surroundings`; log levels do, too.
_WORN: Final = ("cwd", "environment", "path")
_NOTHING: Final[Baggage] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where the zygote was started.

    Attributes:
        cwd: path of the working directory.
        place: device and inode of it; another one may get its path, but never these while the
            zygote is there.
        environment: as os.environ holds it.
        path: sys.path.
    """

    cwd: str
    place: tuple[int, int]
    environment: dict[bytes, bytes]
    path: list[str]

    @classmethod
    def now(cls) -> Surroundings:
        """Return those of this process."""
        return cls(_cwd(), _place(), dict(_environment(os.environ)), list(sys.path))

    def baggage(self, worn: Baggage = _NOTHING) -> Baggage:
        """Return what is different now, and what there is of log levels and context.

        Also what is not, where a worker that serves again still has it on (`worn`) otherwise.
        """
        found = self._without(worn) if worn else {}
        if _place() != self.place:
            found["cwd"] = _cwd()
        if (environment := _environment(os.environ)) != self.environment:
            found["environment"] = dict(environment)
        if sys.path != self.path:
            found["path"] = list(sys.path)
        if levels := _levels.read():
            found["levels"] = {**found.get("levels", {}), **levels}
        if context := _context():
            found["context"] = context
        return found

    def _without(self, worn: Baggage) -> dict[str, Any]:
        """Return what takes off again what a worker has on."""
        found = {what: getattr(self, what) for what in _WORN if what in worn}
        if levels := dict.fromkeys(worn.get("levels", ()), logging.NOTSET):
            found["levels"] = levels
            if "" in levels:
                levels[""] = logging.WARNING
        return found


def dress(baggage: Baggage) -> None:
    """Make this worker's surroundings those of the call."""
    if "path" in baggage:
        sys.path[:] = baggage["path"]
    if "environment" in baggage:
        os.environ.clear()
        for name, value in baggage["environment"].items():
            os.environb[name] = value
        time.tzset()
    if "cwd" in baggage:
        os.chdir(baggage["cwd"])
    for name, level in baggage.get("levels", {}).items():
        logging.getLogger(name).setLevel(level)
    waiting[:] = baggage.get("context", ())


def put_on_context() -> None:
    """Set the context variables that the call may read, now that it is unpacked.

    To import, for nobody, what the others belong to (an agent's framework) can take seconds.
    """
    for path, value in waiting:
        try:
            variable = pickling.variable_here(*path)
            if variable is not None:
                variable.set(pickling.unpack(value))
        except Exception:
            # Of a module, or a value, that only makes sense in the app.
            logger.debug("agentcgroup: context variable %s stays behind", path, exc_info=True)
    waiting.clear()


#: Context variables of the call that is about to come: where each stands, and its pickled value.
waiting: list[tuple[tuple[str | None, str], bytes]] = []

logger = logging.getLogger("agentcgroup")


def _cwd() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # removed under our feet; the tool will find out by itself
        return "/"


def _place() -> tuple[int, int]:
    found = os.stat(".")
    return found.st_dev, found.st_ino


#: Returns the environment as os.environ holds it: decoding it would take 50 us.
_environment: Final[Callable[[object], dict[bytes, bytes]]] = operator.attrgetter("_data")


def _context() -> list[tuple[tuple[str | None, str], bytes]]:
    found = []
    for variable, value in contextvars.copy_context().items():
        if variable not in _OURS and value is not None:
            try:
                packed = pickle.dumps(value, 5)
            except Exception:
                continue  # stays behind
            path = pickling.variable_path(variable)
            if path[0] is None or path[0].partition(".")[0] != _US:
                found.append((path, packed))
    return found


class _Levels:
    """The levels that have been set, by logger; read again once a second or when loggers came."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}
        self._read_at = -_LEVELS_KEPT
        self._count = -1

    def read(self) -> dict[str, int]:
        manager = logging.root.manager
        now = time.monotonic()
        if now - self._read_at >= _LEVELS_KEPT or len(manager.loggerDict) != self._count:
            self._read_at, self._count = now, len(manager.loggerDict)
            self._known = {
                name: one.level
                for name, one in list(manager.loggerDict.items())
                if isinstance(one, logging.Logger) and one.level
            }
        if logging.root.level != logging.WARNING:
            return {"": logging.root.level, **self._known}
        return self._known


_levels = _Levels()


# -- what the tool says ---------------------------------------------------------------------------


class _Voice(io.RawIOBase):
    """What is written goes to the app, whole."""

    def __init__(self, channel: Channel, kind: bytes, fd: int) -> None:
        self._channel = channel
        self._kind = kind
        self._fd = fd

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        """Return the descriptor that child processes of the tool write to."""
        return self._fd

    def write(self, data: Any, /) -> int:
        content = bytes(data)
        if content:
            self._channel.tell(self._kind, content)
        return len(content)


class _Records(logging.Handler):
    """Log records go to the app, ready to be shown."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stdout.flush()
            attributes = dict(record.__dict__)
            attributes["msg"], attributes["args"] = record.getMessage(), None
            if record.exc_info:
                formatter = logging.Formatter()
                attributes["exc_text"] = formatter.formatException(record.exc_info)
                attributes["exc_info"] = None
            self._channel.tell(LOG, _plainly(attributes))
        except Exception:
            self.handleError(record)


_PLAIN: Final = (int, float, str, bytes, type(None))


def _plainly(attributes: dict[str, Any]) -> bytes:
    if not all(isinstance(value, _PLAIN) for value in attributes.values()):
        try:
            pickle.loads(pickle.dumps(attributes, 5))  # many that pickle do not come back
        except Exception:
            attributes = {
                key: value if isinstance(value, _PLAIN) else str(value)
                for key, value in attributes.items()
            }
    return pickle.dumps(attributes, 5)


def speak_through(channel: Channel) -> None:
    """Send what this worker prints and logs to the app."""
    for name, kind, fd in (("stdout", OUT, 1), ("stderr", ERR, 2)):
        voice: Any = _Voice(channel, kind, fd)
        stream = io.TextIOWrapper(voice, "utf-8", "surrogateescape", line_buffering=True)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    logging.root.handlers[:] = [_Records(channel)]


def relay(message: Message) -> bool:
    """Say in the app what a worker said; False when the message is of another kind."""
    if message.kind == LOG:
        record = logging.makeLogRecord(pickling.unpack(message.pickle))
        heard = logging.getLogger(record.name)
        if heard.isEnabledFor(record.levelno):
            heard.handle(record)
    elif message.kind in (OUT, ERR):
        stream = sys.stdout if message.kind == OUT else sys.stderr
        if stream is not None:
            _write(stream, bytes(message.pickle).decode("utf-8", "surrogateescape"))
            stream.flush()  # the tool may have asked for it; a worker sends whole lines
    else:
        return False
    return True


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
    except UnicodeEncodeError:  # bytes that are no text, or letters that this stream has not
        encoding = stream.encoding
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))


# -- how it fails ---------------------------------------------------------------------------------


class _Remote(Exception):
    """The traceback in the worker, as the cause of the exception in the app."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def failure(error: BaseException) -> bytes:
    """Pickle an exception with its traceback, or what stands in for one that cannot be."""
    told = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    try:
        packed = b"".join(pickling.pack(error)[0])
        revived = pickling.unpack(packed)  # many that pickle do not come back
        if not isinstance(revived, BaseException):
            raise TypeError(f"{type(error).__name__} unpickles as {type(revived).__name__}")
    except Exception:
        summary = traceback.format_exception_only(type(error), error)[-1].strip()
        packed = pickle.dumps(RemoteError(summary), 5)
    return pickle.dumps((packed, told), 5)


def revived(pickled: bytes | memoryview) -> BaseException:
    """Return the exception that `failure` has packed."""
    packed, told = pickle.loads(pickled)
    try:
        error: BaseException = pickle.loads(packed)
    except Exception as fault:
        error = RemoteError(f"an exception that cannot be unpickled here ({fault})")
    error.__cause__ = _Remote(told)
    return error
