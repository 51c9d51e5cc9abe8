"""The limits of the cgroups that this process is in, which hold for its runs too.

A base outside of these cgroups would lift their limits. So a base is made inside of them, or the
new place gets the same limits.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

from agentcgroup.cgroup import files
from agentcgroup.cgroup.files import Directory

__all__ = ["UNLIMITED", "limits_below"]

#: What a file without a limit says; an empty one has none either.
UNLIMITED: Final = "max"

#: Files with one number, or a quota and its period.
_NUMBERS: Final = (
    *(files.MEMORY_MAX, "memory.high", "memory.swap.max", "memory.zswap.max"),
    *("pids.max", "cpu.max"),
)
#: Files with a list, or a line for each device or resource.
_LISTS: Final = ("cpuset.cpus", "cpuset.mems", "io.max", "io.latency", "rdma.max", "misc.max")


def limits_below(top: str, path: str) -> dict[str, str]:
    """Return the limits of `path` and of the cgroups above it, up to `top`, which does not count.

    By the name of the file; of several cgroups with the same file, the tightest limit.
    """
    found: dict[str, str] = {}
    while path.startswith(f"{top}/"):
        with contextlib.suppress(OSError), contextlib.closing(Directory.open(path)) as directory:
            for file, text in _of_one(directory).items():
                found[file] = min(found.get(file, text), text, key=_tightness)
        path = os.path.dirname(path)
    return found


def _of_one(directory: Directory) -> dict[str, str]:
    files_here = (*_NUMBERS, *_LISTS)
    texts = {file: (directory.read_optional(file) or "").strip() for file in files_here}
    return {file: text for file, text in texts.items() if _limits(text)}


def _limits(text: str) -> bool:
    lines = [line for line in text.splitlines() if not line.endswith(f" {UNLIMITED}")]
    return bool(lines) and not text.startswith(UNLIMITED)


def _tightness(text: str) -> float:
    """Order limits of one file; the nearest one wins where they have no order."""
    number, _, period = text.partition(" ")
    if not number.isdecimal() or not (period.isdecimal() or not period):
        return 0.0
    return int(number) / int(period or 1)
