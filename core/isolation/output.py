"""What a tool prints and logs in its worker, sent to the app as it happens.

In the worker, `redirect` replaces ``sys.stdout``, ``sys.stderr`` and the root logger's handlers by
ones that send messages. In the app, `relay` writes those messages to the app's own streams and
loggers.
"""

from __future__ import annotations

import io
import logging
import pickle
import sys
from typing import Any, Final, TextIO

from agentcgroup.isolation import pickling
from agentcgroup.isolation.channel import Channel
from agentcgroup.isolation.messages import Message
from agentcgroup.isolation.protocol import LOG, STDERR, STDOUT

__all__ = ["redirect", "relay"]

#: Types of a log record's attributes that can be pickled and unpickled in any process.
_PLAIN: Final = (int, float, str, bytes, type(None))


def redirect(channel: Channel) -> None:
    """In a worker: send what this process prints and logs over `channel`."""
    for name, kind, fd in (("stdout", STDOUT, 1), ("stderr", STDERR, 2)):
        raw: Any = _ChannelIO(channel, kind, fd)
        stream = io.TextIOWrapper(raw, "utf-8", "surrogateescape", line_buffering=True)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    logging.root.handlers[:] = [_ChannelHandler(channel)]


def relay(message: Message) -> bool:
    """In the app: write what a worker has printed or logged; False for another kind of message."""
    if message.kind == LOG:
        record = logging.makeLogRecord(pickling.unpack(message.pickle))
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)
    elif message.kind in (STDOUT, STDERR):
        stream = sys.stdout if message.kind == STDOUT else sys.stderr
        if stream is not None:
            _write(stream, bytes(message.pickle).decode("utf-8", "surrogateescape"))
            stream.flush()  # the tool may have flushed, which no message says; workers send lines
    else:
        return False
    return True


class _ChannelIO(io.RawIOBase):
    """A raw stream that sends each write as one message."""

    def __init__(self, channel: Channel, kind: bytes, fd: int) -> None:
        self._channel = channel
        self._kind = kind
        self._fd = fd

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        """Return the file descriptor that child processes of the tool write to."""
        return self._fd

    def write(self, data: Any, /) -> int:
        content = bytes(data)
        if content:
            self._channel.send_one_way(self._kind, content)
        return len(content)


class _ChannelHandler(logging.Handler):
    """Sends log records, with text and traceback already formatted."""

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
            self._channel.send_one_way(LOG, _pickled(attributes))
        except Exception:
            self.handleError(record)


def _pickled(attributes: dict[str, Any]) -> bytes:
    """Pickle the attributes of a log record, as text where an attribute does not unpickle."""
    if not all(isinstance(value, _PLAIN) for value in attributes.values()):
        try:
            pickle.loads(pickle.dumps(attributes, 5))  # many objects pickle and do not unpickle
        except Exception:
            attributes = {
                key: value if isinstance(value, _PLAIN) else str(value)
                for key, value in attributes.items()
            }
    return pickle.dumps(attributes, 5)


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
    except UnicodeEncodeError:  # bytes that are no text, or letters that the encoding lacks
        encoding = stream.encoding
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
