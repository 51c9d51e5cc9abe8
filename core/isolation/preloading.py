"""Import modules in the fork server, so that its workers inherit them.

A module is **unfit** if importing it starts threads or opens files: a fork has no thread but the
one that forks, and shares the offsets and locks of open files. So a fork of the fork server, a
**trial**, imports the modules first and counts those that are fit.

Some libraries end their threads before a fork() and start them again when they are needed
(OpenBLAS does so by pthread_atfork(3)). Their modules are fit once the fork server has called
fork(): the clone3(2) that makes workers runs no handlers of pthread_atfork.

Some packages start a thread for their telemetry when they are imported, unless an environment
variable forbids it. It is set for the time of the import: the app has its telemetry.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

#: Variables of packages that would start threads, and take seconds to import anew: of CrewAI.
_QUIET: Final = {"CREWAI_DISABLE_TELEMETRY": "true"}

__all__ = ["count_fit", "import_modules", "without_unfit"]


def count_fit(names: Sequence[str]) -> int:
    """In a trial: import modules up to the first unfit one; return how many came before it."""
    open_before = _descriptors()
    for count, name in enumerate(names):
        import_modules([name])
        if _threads() > 1 or _descriptors() != open_before:
            return count
    return len(names)


def import_modules(names: Iterable[str]) -> None:
    """Import modules, and leave this process with one thread if their libraries allow it."""
    with _quiet():
        for name in names:
            with contextlib.suppress(Exception):  # such as of one that only the worker could import
                importlib.import_module(name)
    _end_threads_of_libraries()


def without_unfit(names: Sequence[str], fit: int) -> list[str]:
    """Return the modules behind the unfit one at index `fit`, but for its submodules."""
    if fit >= len(names):
        return []
    within = f"{names[fit]}."
    return [name for name in names[fit + 1 :] if not name.startswith(within)]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in _QUIET}
    os.environ.update(_QUIET)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _end_threads_of_libraries() -> None:
    """Call fork() once for the libraries that end their threads before a fork."""
    if _threads() > 1:
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
