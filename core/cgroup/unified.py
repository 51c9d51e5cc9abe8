"""The `unified` table: any further file of cgroup v2, written as it stands.

A kernel has more keys than this package has rows. A name here is a kernel file, such as
"memory.zswap.max" or "hugetlb.2MB.max"; the value is written after the limits of the rows. A name
that would undo a limit of ours, or is no limit, is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from agentcgroup.cgroup.limits import LIMITS

__all__ = ["checked_data", "checked_file"]

#: CONTROLLER.NAME (cgroup-v2.rst, "Conventions"); hugetlb has a size, such as 2MB, in the name.
_FILE: Final = re.compile(r"[a-z][a-z0-9_]{0,31}(?:\.[A-Za-z0-9_-]{1,32}){1,5}")
_LONGEST_DATA: Final = 1000

#: Last parts of the names of files that count or describe and cannot be limits.
_READ_ONLY: Final = frozenset(
    ("current", "effective", "events", "local", "numa_stat", "peak", "stat", "capacity", "failcnt")
)
_OWN: Final = {row.file: key for key, row in LIMITS.items()}
#: Files that set what the file of a row sets (cgroup-v2.rst, "CPU Interface Files").
_SAME_AS: Final = {"cpu.weight.nice": "cpu_weight", "cpu.idle": "cpu_weight"}


def checked_file(name: object) -> str:
    """Return the name of a file that may be written.

    Raises:
        ValueError: the name is refused; the text says why, and the key to write instead.
    """
    if not isinstance(name, str) or not _FILE.fullmatch(name):
        raise ValueError(
            f"{name!r} is not the name of a cgroup file: write CONTROLLER.NAME in quotes, "
            'such as "memory.zswap.max"'
        )
    if name in _OWN:
        raise ValueError(f"has a key of its own: write {_OWN[name]}, outside of unified")
    if name in _SAME_AS:
        key = _SAME_AS[name]
        raise ValueError(f"would undo {key}, which sets the same: write {key}, outside of unified")
    controller, *_, last = name.split(".")
    if controller == "cgroup":
        raise ValueError("is not a limit: agentcgroup itself controls processes by cgroup.*")
    if last == "pressure":
        raise ValueError("is not a limit: the file reports pressure and sets triggers")
    if name == "memory.reclaim":
        raise ValueError("is not a limit: a write to the file reclaims memory once")
    if last in _READ_ONLY:
        raise ValueError("is not a limit: the file is a statistic, which nobody can write")
    return name


def checked_data(value: object) -> str:
    """Return the text that is written to a file.

    Raises:
        ValueError: the value is no text that a cgroup file takes; the text says what to write.
    """
    text = str(value) if type(value) is int else value
    if isinstance(text, str) and 0 < len(text) <= _LONGEST_DATA and text.isascii():
        if text.isprintable():
            return text
    elif isinstance(value, Mapping):  # TOML reads memory.zswap.max = "0" as tables in tables
        raise ValueError('is a table: write the whole name in quotes, "memory.zswap.max" = "0"')
    raise ValueError(
        f"{value!r} is not a value of a cgroup file: write a number, or one line of at most "
        f"{_LONGEST_DATA} ASCII characters"
    )
