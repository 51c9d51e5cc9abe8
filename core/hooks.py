"""Hook methods of a framework once it is imported, without ever importing it.

Plain functions are set on the classes, not proxies: frameworks compare functions by identity
(``cls._arun is BaseTool._arun``) and read signatures.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import wrapt

__all__ = ["Wrapper", "when_imported", "wrap"]

logger = logging.getLogger("agentcgroup")

#: Takes what was there and returns what takes its place, with `functools.wraps`.
Wrapper = Callable[[Callable[..., Any]], Callable[..., Any]]

#: Called with a module's name and the module, whose ``__name__`` cannot be trusted: crewai copies
#: the namespace of one module over others.
Hook = Callable[[str, ModuleType], None]

_asked: set[tuple[Hook, str]] = set()

#: The functions that `wrap` has set.
_ours: set[Callable[..., Any]] = set()


def when_imported(modules: Iterable[str], hook: Hook, failed: str) -> None:
    """Call `hook` for each module when it is imported, or now if it is. Idempotent.

    An error in `hook` is logged as `failed` and does not fail the user's import.
    """
    for name in modules:
        if (hook, name) not in _asked:
            _asked.add((hook, name))
            wrapt.register_post_import_hook(_guarded(name, hook, failed), name)


def _guarded(name: str, hook: Hook, failed: str) -> Callable[[ModuleType], None]:
    def guarded(module: ModuleType) -> None:
        try:
            hook(name, module)
        except Exception:
            logger.exception("agentcgroup: %s: %s could not be hooked", failed, name)

    return guarded


def wrap(module: ModuleType, path: str, wrapper: Wrapper, lost: str) -> None:
    """Put `wrapper` around ``Class.method`` or a function of `module`; once, where it is defined.

    A missing one is a loud warning, which says what is `lost`.
    """
    class_name, _, name = path.rpartition(".")
    owner = getattr(module, class_name, None) if class_name else module
    for holder in getattr(owner, "__mro__", (owner,)):
        original = getattr(holder, "__dict__", {}).get(name)
        if original in _ours:
            return
        if callable(original):
            ours = wrapper(original)
            _ours.add(ours)
            setattr(holder, name, ours)
            return
    logger.warning("agentcgroup: %s.%s is missing in this version: %s", module.__name__, path, lost)
