"""Modules that a worker cannot import by their names: their functions and classes go by value.

Servers and notebooks load a module from a file, or execute its text, and put it into `sys.modules`
under a name that no finder knows, or that is another module's: `langgraph dev` does so with the
file of a graph.
"""

from __future__ import annotations

import contextlib
import sys
from types import FunctionType, MethodType, ModuleType
from typing import Any

import cloudpickle

__all__ = ["check"]

_checked: set[str] = {"__main__"}  # which always goes by value


def check(body: Any) -> None:
    """Have the module of a body go by value from now on where a worker cannot import it.

    Args:
        body: a function, a method, or an object with the attribute `tool`.
    """
    owner = body if isinstance(body, FunctionType | MethodType) else getattr(body, "tool", body)
    name = getattr(owner, "__module__", None)
    if isinstance(name, str) and name not in _checked:
        _checked.add(name)
        module = sys.modules.get(name)
        if isinstance(module, ModuleType) and not _is_found(module, name):
            cloudpickle.register_pickle_by_value(module)


def _is_found(module: ModuleType, name: str) -> bool:
    """Return whether an import of `name` in another process finds the module that we have."""
    spec = getattr(module, "__spec__", None)
    above = sys.modules.get(name.rpartition(".")[0])
    path = getattr(above, "__path__", None)
    if "." in name and path is None:
        return False
    for finder in sys.meta_path:
        found = None
        with contextlib.suppress(Exception):  # a finder of whatever library
            found = finder.find_spec(name, path, None)
        if found is not None:
            return spec is None or found.origin == spec.origin
    return False
