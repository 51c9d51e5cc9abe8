"""The warning of Python 3.12 and later at a fork of a process with several threads.

Python counts the threads of this package, too, and would warn at each fork in a program that has
one thread without it. The warning is given where the program has a thread of its own beside the one
that forks. What the threads of this package hold is made anew in the child (`calls.services`).
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any, Final

from agentcgroup import threads

__all__ = ["WARNS", "own_threads_unwarned"]

#: Whether this Python warns.
WARNS: Final = sys.version_info >= (3, 12)


class _OnlyOurThreads:
    """Takes the place of the pattern in a filter of warnings."""

    def match(self, text: str) -> bool:
        """Return whether the warning `text` is only about threads of this package."""
        if "is multi-threaded, use of" not in text:
            return False
        ours = threads.native_ids()
        return sum(1 for one in os.listdir("/proc/self/task") if int(one) not in ours) <= 1


_FILTER: Final[Any] = ("ignore", _OnlyOurThreads(), DeprecationWarning, None, 0)


class own_threads_unwarned:
    """A block around a fork that is not warned of for the sake of this package's threads.

    The filter stands first, before those of pytest or ``-W error``. It is put into the list itself,
    without `warnings.simplefilter`, which would have Python repeat all warnings given before.
    """

    __slots__ = ("_filters",)

    def __enter__(self) -> None:
        self._filters: list[Any] | None = None
        if WARNS and threads.native_ids():
            filters: Any = warnings.filters  # a list; typeshed has it read-only
            filters.insert(0, _FILTER)
            self._filters = filters

    def __exit__(self, *_: object) -> None:
        if self._filters is not None:
            self._filters.remove(_FILTER)
