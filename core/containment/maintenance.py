"""Maintenance that a program detaches and that ends by itself: not a leftover of the call.

`git commit` detaches `git gc --auto` in a repository of many loose objects. Ended with each call,
it would never be done, and the repository would grow for ever. So a small table knows such programs
by their command lines. Any program can give itself such a command line, so what goes on is moved to
a cgroup of its own, with limits, and is ended after a time.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from fnmatch import fnmatchcase
from itertools import islice
from typing import Final, NamedTuple

from agentcgroup import syscalls
from agentcgroup.containment.process_tree import stat_of

__all__ = ["detached"]


class _Known(NamedTuple):
    """A command line: its first words, as globs, and one option among the further ones."""

    name: str
    words: tuple[str, ...]
    option: str | None = None


_KNOWN: Final = (
    _Known("git gc --auto", ("git", "gc"), "--auto"),
    _Known("git maintenance run --auto", ("git", "maintenance", "run"), "--auto"),
    # Programs with the module golang.org/x/telemetry, such as `go`, start it once a day. One that
    # is ended has taken the day's token, so that the next attempt comes a day later.
    _Known("Go telemetry", ("*", "[*][*] telemetry [*][*]")),
    # The package update-notifier of npm; its interval begins when the check is done.
    _Known("update-notifier", ("node", "*/update-notifier/check.js")),
)
#: Processes that are looked at; a fork bomb leaves more.
_LOOKED_AT: Final = 256
#: Bytes of a command line that are looked at.
_LONGEST: Final = 4096


def detached(pids: Iterable[int]) -> dict[int, str]:
    """Return the names of the known maintenance programs among the processes, by pid.

    What a process of the same call still waits for is not detached.
    """
    members = set(pids)
    found = {}
    for pid in islice(members, _LOOKED_AT):
        name = _name(pid)
        if name and (stat := stat_of(pid)) is not None and stat.parent not in members:
            found[pid] = name
    return found


def _name(pid: int) -> str | None:
    line = b""
    with contextlib.suppress(OSError):  # it is gone
        fd = syscalls.open(f"/proc/{pid}/cmdline", os.O_RDONLY)
        try:
            line = syscalls.read(fd, _LONGEST)
        finally:
            syscalls.close(fd)
    words = line.decode("utf-8", "replace").split("\0")
    words[0] = os.path.basename(words[0])
    for known in _KNOWN:
        count = len(known.words)
        if len(words) < count or not all(map(fnmatchcase, words, known.words)):
            continue
        if known.option is None or known.option in words[count:]:
            return known.name
    return None
