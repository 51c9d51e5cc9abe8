"""Wrap methods of a framework when the program imports it; this module never imports it.

The wrappers are plain functions, not proxies: frameworks compare functions by identity
(``cls._arun is BaseTool._arun``) and read signatures.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import wrapt

__all__ = ["Wrapper", "when_imported", "wrap"]

logger = logging.getLogger("agentcgroup")

#: Takes the original function and returns the wrapper, made with `functools.wraps`.
Wrapper = Callable[[Callable[..., Any]], Callable[..., Any]]

#: Called with the name of a module in `sys.modules`. The module's own ``__name__`` may be wrong:
#: crewai copies the namespace of one module over others.
Hook = Callable[[str], None]

#: The pairs that wait for the import of the module, and those whose hook has been called.
_registered: set[tuple[Hook, str]] = set()
_called: set[tuple[Hook, str]] = set()

#: The functions that `wrap` has set.
_ours: set[Callable[..., Any]] = set()


def when_imported(modules: Iterable[str], hook: Hook, failed: str) -> None:
    """Call `hook` with each name when its module is imported, or now if it is.

    A second `when_imported` calls `hook` again, which restores lost wrappers: an instrumentation
    that is removed restores the methods that it found, without the wrappers that came later. An
    exception in `hook` is logged, with the text `failed`, and does not fail the user's import.
    """
    for name in modules:
        guarded = _guarded(name, hook, failed)
        if (hook, name) in _called:
            guarded(sys.modules[name])
        elif (hook, name) not in _registered:
            _registered.add((hook, name))
            wrapt.register_post_import_hook(guarded, name)


def _guarded(name: str, hook: Hook, failed: str) -> Callable[[ModuleType], None]:
    def guarded(_module: ModuleType) -> None:
        _called.add((hook, name))
        try:
            hook(name)
        except Exception:
            logger.exception("agentcgroup: %s: %s could not be hooked", failed, name)

    return guarded


def wrap(name: str, path: str, wrapper: Wrapper, lost: str) -> None:
    """Wrap ``Class.method``, or a function, of the imported module `name`.

    The method is wrapped in the class that defines it, and once. A method that is missing is logged
    as a warning with the text `lost`.
    """
    module = sys.modules[name]
    class_name, _, function = path.rpartition(".")
    owner = getattr(module, class_name, None) if class_name else module
    for holder in getattr(owner, "__mro__", (owner,)):
        original = getattr(holder, "__dict__", {}).get(function)
        if _wraps_ours(original):
            return
        if callable(original):
            # Read through the class, not from its __dict__: another library's wrapper may be a
            # descriptor, which called directly takes the instance for an argument (wrapt's does).
            ours = wrapper(getattr(holder, function))
            _ours.add(ours)
            static = isinstance(original, staticmethod)
            setattr(holder, function, staticmethod(ours) if static else ours)
            return
    logger.warning("agentcgroup: %s.%s is missing in this version: %s", name, path, lost)


def _wraps_ours(function: Any) -> bool:
    """Return whether the function is one that `wrap` has set, or another's wrapper around one."""
    while function is not None and function not in _ours:
        function = getattr(function, "__wrapped__", None)
    return function is not None
