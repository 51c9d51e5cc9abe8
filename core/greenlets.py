"""The propagation of the current call to greenlets of gevent and eventlet.

A greenlet starts with an empty context, as a thread does. It gets the values of the code that
spawns it, and nothing else of that context. Both libraries are hooked when the program imports
them, before or after it registers.
"""

from __future__ import annotations

import functools
from typing import Any

import wrapt

from agentcgroup.propagation import propagated_context

__all__ = ["install"]

_installed = False


def install() -> None:
    """Propagate the current call from now on, while `scope` does so to threads; idempotent."""
    global _installed
    if not _installed:
        _installed = True
        wrapt.register_post_import_hook(_hook_gevent, "gevent")
        wrapt.register_post_import_hook(_hook_eventlet, "eventlet.greenthread")


def _propagate(greenlet: Any) -> None:
    """Give a greenlet that has not begun the values of the running code."""
    context = propagated_context()
    if context is not None and greenlet.gr_context is None:
        greenlet.gr_context = context


def _hook_gevent(module: Any) -> None:
    """Hook every greenlet that is started: also those of pools and of patched threads."""
    module.Greenlet.add_spawn_callback(_propagate)


def _hook_eventlet(module: Any) -> None:
    """Hook green threads, also those of pools and of patched threads, and `spawn_n`."""
    before = module.GreenThread.__init__
    spawn = module._spawn_n

    @functools.wraps(before)
    def propagating_init(self: Any, *args: Any, **kwargs: Any) -> None:
        before(self, *args, **kwargs)
        _propagate(self)

    @functools.wraps(spawn)
    def propagating_spawn(*args: Any, **kwargs: Any) -> Any:
        spawned = spawn(*args, **kwargs)
        _propagate(spawned[1])
        return spawned

    module.GreenThread.__init__ = propagating_init
    module._spawn_n = propagating_spawn
