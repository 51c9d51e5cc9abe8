"""Hook methods of a framework once it is imported, without ever importing it.

Plain functions are set on the classes, not proxies: frameworks compare functions by identity
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

#: Takes what was there and returns what takes its place, with `functools.wraps`.
Wrapper = Callable[[Callable[..., Any]], Callable[..., Any]]

#: Called with the name of a module in `sys.modules`. The module's own ``__name__`` cannot be
#: trusted: crewai copies the namespace of one module over others.
Hook = Callable[[str], None]

_asked: set[tuple[Hook, str]] = set()
_called: set[tuple[Hook, str]] = set()

#: The functions that `wrap` has set.
_ours: set[Callable[..., Any]] = set()


def when_imported(modules: Iterable[str], hook: Hook, failed: str) -> None:
    """Call `hook` with each name when its module is imported, or now if it is.

    Asked again it calls `hook` again, to put back what has been lost meanwhile: an instrumentation
    that is taken away restores what it had found, without what came after it. An error in `hook` is
    logged as `failed` and does not fail the user's import.
    """
    for name in modules:
        guarded = _guarded(name, hook, failed)
        if (hook, name) in _called:
            guarded(sys.modules[name])
        elif (hook, name) not in _asked:
            _asked.add((hook, name))
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
    """Put `wrapper` around ``Class.method`` or a function of the module `name`, imported already.

    Where it is defined, and once. A missing one is a loud warning, which says what is `lost`.
    """
    module = sys.modules[name]
    class_name, _, function = path.rpartition(".")
    owner = getattr(module, class_name, None) if class_name else module
    for holder in getattr(owner, "__mro__", (owner,)):
        original = getattr(holder, "__dict__", {}).get(function)
        if _wraps_ours(original):
            return
        if callable(original):
            # Through the class, not as it lies there: somebody's wrapper is a descriptor, which
            # called bare takes the instance for an argument (wrapt's does).
            ours = wrapper(getattr(holder, function))
            _ours.add(ours)
            static = isinstance(original, staticmethod)
            setattr(holder, function, staticmethod(ours) if static else ours)
            return
    logger.warning("agentcgroup: %s.%s is missing in this version: %s", name, path, lost)


def _wraps_ours(function: Any) -> bool:
    """Say whether it is ours, or somebody's wrapper around ours."""
    while function is not None and function not in _ours:
        function = getattr(function, "__wrapped__", None)
    return function is not None
