"""TOML files, with the line of every key.

tomllib gives values but no positions. A file that tomllib accepts is well formed, so a short scan
for strings, comments and brackets finds the line of each key. Keys inside inline tables and arrays
have the line of the key that holds them.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from agentcgroup.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Document", "KeyPath", "Source", "parse", "read"]

#: The way to a value: keys, and indices of arrays.
KeyPath = tuple[str | int, ...]

#: Bytes; no configuration is larger, and a wrong path may name any file.
_LARGEST = 1 << 20

#: Parts of a key; tomllib takes 20 s for a key of 20,000.
_MOST_PARTS = 100

# A multi-line string may end in up to two quotes of its own before the three that close it.
_QUOTED = r'"(?:\\.|[^"\\\n])*"|' r"'[^'\n]*'"
_STRING = r'"""(?:\\.|[^\\])*?"""(?:"{0,2})|' r"'''.*?'''(?:'{0,2})|" + _QUOTED
_PART = rf"(?:[A-Za-z0-9_-]+|{_QUOTED})"
_KEY = re.compile(rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*")
_QUOTED_OR_COMMENT = re.compile(rf"({_STRING})|#[^\n]*", re.DOTALL)
_LONG_KEY = re.compile(rf"{_PART}(?:[ \t]*\.[ \t]*{_PART}){{{_MOST_PARTS}}}")
_BLANK = re.compile(r"(?:\s+|#[^\n]*)*")
_IN_VALUE = re.compile(rf"{_STRING}|#[^\n]*|[\[\]{{}}\n]|[^\[\]{{}}\n#\"']+", re.DOTALL)


class Document:
    """A parsed TOML text.

    Attributes:
        name: its name in errors, usually its path.
        text: the text itself.
        data: the values.
    """

    def __init__(self, name: str, text: str, data: Mapping[str, Any]) -> None:
        self.name = name
        self.text = text
        self.data = data

    def line(self, path: KeyPath) -> int | None:
        """Return the 1-based line of a key, or of the nearest table around it that has one."""
        for end in range(len(path), 0, -1):
            if (line := self._lines.get(path[:end])) is not None:
                return line
        return None

    @cached_property
    def _lines(self) -> dict[KeyPath, int]:
        lines: dict[KeyPath, int] = {}
        for path, line in _statements(self.text):
            # a.b.c names a and a.b as well, if nothing did before.
            for end in range(1, len(path) + 1):
                lines.setdefault(path[:end], line)
        return lines


@dataclass(frozen=True, slots=True)
class Source:
    """The origin of a configuration, for messages; two configurations are equal without it.

    Attributes:
        name: path of the file, or another name such as "call()".
        document: the parsed file, None where the source is no file.
        prefix: the path of our table in that file.
    """

    name: str = field(compare=False)
    document: Document | None = field(default=None, compare=False)
    prefix: KeyPath = field(default=(), compare=False)

    def line(self, path: KeyPath) -> int | None:
        """Return the 1-based line of a key, None where the source has no lines."""
        return None if self.document is None else self.document.line((*self.prefix, *path))

    def place(self, path: KeyPath) -> str:
        """Return ``FILE:LINE`` of a key, or the bare name where the source has no lines."""
        line = self.line(path)
        return self.name if line is None else f"{self.name}:{line}"


def parse(text: str, name: str) -> Document:
    """Parse a TOML text.

    Raises:
        ConfigError: it is not TOML, or has a key of too many parts; the error has the line.
    """
    bare = _QUOTED_OR_COMMENT.sub(_emptied, text)
    if long := _LONG_KEY.search(bare):
        raise ConfigError(
            f"a key has more than {_MOST_PARTS} parts",
            file=name,
            line=bare.count("\n", 0, long.start()) + 1,
        )
    try:
        return Document(name, text, tomllib.loads(text))
    except RecursionError:
        raise ConfigError("is not TOML: it is nested too deeply", file=name) from None
    except ValueError as error:
        # "Expected '=' after a key (at line 3, column 5)", or "(at end of document)".
        match = re.search(r" \(at (?:line (\d+)|end of document).*\)$", str(error))
        message = str(error)[: match.start()] if match else str(error)
        line = int(match[1]) if match and match[1] else None
        if match and line is None:
            line = text.count("\n") + 1
        raise ConfigError(f"is not TOML: {message}", file=name, line=line) from None


def _emptied(found: re.Match[str]) -> str:
    """Return an empty string for a string, nothing for a comment; both with the same lines."""
    return ('""' if found[1] else "") + "\n" * found[0].count("\n")


def read(path: str, check: Callable[[os.stat_result], None] | None = None) -> Document:
    """Read a TOML file.

    Args:
        path: the file.
        check: called with the status of the open file, before it is read; may raise ConfigError.

    Raises:
        ConfigError: the file is missing, not a regular file, not readable, above 1 MiB, not UTF-8
            or not TOML.
    """
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise ConfigError("cannot read it: it is not a regular file", file=path)
            if check is not None:
                check(found)
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise ConfigError(f"cannot read it: {error.strerror}", file=path) from error
    if len(data) > _LARGEST:
        raise ConfigError("is larger than 1 MiB: this is not a configuration", file=path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError("is not UTF-8, as TOML must be", file=path, line=line) from None
    return parse(text, path)


def _open_without_waiting(path: str, flags: int) -> int:
    """Open without blocking on a FIFO that has no writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def _statements(text: str) -> Iterator[tuple[KeyPath, int]]:
    """Yield every table header and key of a well-formed text with its line."""
    table: KeyPath = ()
    elements: dict[KeyPath, int] = {}
    line, counted, at = 1, 0, 0
    while (at := _skip(_BLANK, text, at)) < len(text):
        line += text.count("\n", counted, at)
        counted = at
        header = 2 if text.startswith("[[", at) else 1 if text[at] == "[" else 0
        start = _skip(_BLANK, text, at + header)
        end = _skip(_KEY, text, start)
        if end == start:
            return  # not well formed after all: no line rather than a wrong one
        keys = _keys(text[start:end])
        if header == 2:
            table = (*_inside(elements, keys[:-1]), keys[-1])
            elements[table] = elements.get(table, -1) + 1
            table = (*table, elements[table])
            path = table
        elif header == 1:
            path = table = _inside(elements, keys)
        else:
            path = (*table, *keys)
        yield path, line
        at = _end_of_statement(text, end + header)


def _skip(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match else at


def _keys(dotted: str) -> tuple[str, ...]:
    """Split a dotted key; tomllib parses quoted parts and their escapes."""
    if '"' not in dotted and "'" not in dotted:
        return tuple(part.strip() for part in dotted.split("."))
    node: Any = tomllib.loads(f"{dotted} = 0")
    keys = []
    while isinstance(node, dict):
        ((key, node),) = node.items()
        keys.append(key)
    return tuple(keys)


def _inside(elements: Mapping[KeyPath, int], keys: tuple[str, ...]) -> KeyPath:
    """Return the path of a header: below an array of tables, in its last element."""
    path: KeyPath = ()
    for key in keys:
        path = (*path, key)
        if path in elements:
            path = (*path, elements[path])
    return path


def _end_of_statement(text: str, at: int) -> int:
    """Return where the first line break outside strings, comments and brackets ends."""
    depth = 0
    while match := _IN_VALUE.match(text, at):
        at = match.end()
        token = match[0]
        if token in "[{":
            depth += 1
        elif token in "]}":
            depth -= 1
        elif token == "\n" and depth <= 0:
            break
    return at
