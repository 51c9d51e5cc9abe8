"""The environment that a tool finds in its worker: it is made the same as in the app at the call.

The environment is: working directory, environment variables, ``sys.path``, log levels and context
variables. A worker inherits that of the fork server, of which the app keeps a `Snapshot`; before a
call the app sends only the **changes** since, and the worker applies them.
"""

from __future__ import annotations

import logging
import operator
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from agentcgroup import syscalls
from agentcgroup.isolation import context_variables

__all__ = ["Changes", "Snapshot", "apply"]

#: Seconds for which the levels of all loggers are taken to be unchanged.
_LEVELS_KEPT: Final = 1.0

#: Parts of the environment that differ from a snapshot, by the names of its attributes; also
#: "levels" (logger's name to level) and "context" (see `context_variables.snapshot`).
Changes = Mapping[str, Any]
#: Parts that a worker keeps from call to call. It keeps log levels, too.
_KEPT: Final = ("cwd", "environ", "path")
_NONE: Final[Changes] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The environment of the app when it started the fork server.

    Attributes:
        cwd: path of the working directory.
        cwd_id: device and inode of it. Another directory may get the same path later, but not the
            same inode while the fork server has the directory as its own.
        environ: as ``os.environ`` stores it.
        path: ``sys.path``.
    """

    cwd: str
    cwd_id: tuple[int, int]
    environ: dict[bytes, bytes]
    path: list[str]

    @classmethod
    def take(cls) -> Snapshot:
        """Return the snapshot of this process."""
        return cls(_cwd(), _cwd_id(), dict(_environ(os.environ)), list(sys.path))

    def changes(self, applied: Changes = _NONE) -> Changes:
        """Return the parts of the present environment that a worker has to apply.

        Args:
            applied: what the worker has applied for its last call; parts that have their old value
                again are among the changes.
        """
        found = self._undoing(applied) if applied else {}
        if _cwd_id() != self.cwd_id:
            found["cwd"] = _cwd()
        if (environ := _environ(os.environ)) != self.environ:
            found["environ"] = dict(environ)
        if sys.path != self.path:
            found["path"] = list(sys.path)
        if levels := _levels.read():
            found["levels"] = {**found.get("levels", {}), **levels}
        if context := context_variables.snapshot():
            found["context"] = context
        return found

    def _undoing(self, applied: Changes) -> dict[str, Any]:
        """Return the changes that undo those which a worker has applied."""
        found = {part: getattr(self, part) for part in _KEPT if part in applied}
        if levels := dict.fromkeys(applied.get("levels", ()), logging.NOTSET):
            found["levels"] = levels
            if "" in levels:
                levels[""] = logging.WARNING
        return found


def apply(changes: Changes) -> None:
    """In a worker: make the environment the one of the call.

    Context variables become pending; see `context_variables.apply_pending`.

    Raises:
        OSError: the working directory cannot be entered.
    """
    if "path" in changes:
        sys.path[:] = changes["path"]
    if "environ" in changes:
        os.environ.clear()
        for name, value in changes["environ"].items():
            os.environb[name] = value
        time.tzset()
    if "cwd" in changes:
        os.chdir(changes["cwd"])
    for name, level in changes.get("levels", {}).items():
        logging.getLogger(name).setLevel(level)
    context_variables.pending[:] = changes.get("context", ())


def _cwd() -> str:
    try:
        return syscalls.getcwd()
    except FileNotFoundError:  # it was removed; the tool gets that error by itself
        return "/"


def _cwd_id() -> tuple[int, int]:
    found = syscalls.stat(".")
    return found.st_dev, found.st_ino


#: Returns the variables as os.environ stores them: decoding them would take 50 us.
_environ: Final[Callable[[object], dict[bytes, bytes]]] = operator.attrgetter("_data")


class _Levels:
    """The levels of loggers, read again after a second or when the number of loggers changes."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}
        self._read_at = -_LEVELS_KEPT
        self._count = -1

    def read(self) -> dict[str, int]:
        """Return the level of each logger that has one; the root logger's name is ""."""
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
