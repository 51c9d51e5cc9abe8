"""Context variables (PEP 567) of a call, carried from the app to its worker.

A context variable is not picklable. It goes by its **path**: the module and the name by which the
other process finds the same variable, or by its own name where only ``__main__`` holds it.
"""

from __future__ import annotations

import contextvars
import logging
import pickle
import sys
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, Final

from agentcgroup import scope

__all__ = ["Path", "apply_pending", "at", "path_of", "pending", "snapshot"]

logger = logging.getLogger("agentcgroup")

#: Module and name of a variable; the module is None for one that only ``__main__`` holds.
Path = tuple[str | None, str]

#: Our own variables are not sent: the worker is in its call's cgroup already.
_OUR_PACKAGE: Final = __name__.partition(".")[0]
_OURS: Final = frozenset({scope.current, scope.agent, scope.call_group})

#: In a worker: path and pickled value of each variable that `apply_pending` is to set.
pending: list[tuple[Path, bytes]] = []

_paths: dict[ContextVar[Any], Path] = {}
_unnamed: dict[str, ContextVar[Any]] = {}


def snapshot() -> Sequence[tuple[Path, bytes]]:
    """Return path and pickled value of each variable of this context whose value is picklable."""
    found = []
    for variable, value in contextvars.copy_context().items():
        if variable not in _OURS and value is not None:
            try:
                packed = pickle.dumps(value, 5)
            except Exception:
                continue  # not picklable: it stays in the app
            path = path_of(variable)
            if path[0] is None or path[0].partition(".")[0] != _OUR_PACKAGE:
                found.append((path, packed))
    return found


def apply_pending() -> None:
    """Set the pending variables that something in this worker may read, and forget the others.

    It has to run after the call is unpickled, which imports the modules that the body refers to. It
    imports no further package for a variable's sake: nothing would read the variable, and an
    agent's framework takes seconds to import.
    """
    for path, value in pending:
        try:
            variable = _known_here(*path)
            if variable is not None:
                variable.set(pickle.loads(value))
        except Exception:
            # The module or the value can only be loaded in the app.
            logger.debug(
                "agentcgroup: context variable %s is not set in the worker", path, exc_info=True
            )
    pending.clear()


def path_of(variable: ContextVar[Any]) -> Path:
    """Return the path of a variable; cached, because it searches all modules."""
    path = _paths.get(variable)
    if path is None:
        path = _paths[variable] = _search(variable)
    return path


def at(module: str | None, name: str) -> ContextVar[Any]:
    """Return the variable with such a path in this process; imports its module."""
    if module is not None:
        __import__(module)
        found = getattr(sys.modules[module], name)
        assert isinstance(found, ContextVar)
        return found
    return _unnamed.setdefault(name, ContextVar(name))


def _search(variable: ContextVar[Any]) -> Path:
    for module, found in list(sys.modules.items()):
        if module in ("__main__", "__mp_main__"):
            continue
        names = getattr(found, "__dict__", None)
        for name, value in list(names.items()) if isinstance(names, dict) else ():
            if value is variable:
                return module, name
    return None, variable.name


def _known_here(module: str | None, name: str) -> ContextVar[Any] | None:
    """Return the variable with such a path where something in this process may read it.

    Something may read it if an unpickled object refers to it, or if its package is imported.
    """
    if module is None:
        return _unnamed.get(name)
    if module.partition(".")[0] not in sys.modules:
        return None
    return at(module, name)
