"""Children that uvloop starts: libuv forks them, which no patch point sees.

`fork_hooks` places such a child, or refuses it; but a hook cannot raise, and learns no pid. So the
two coroutines by which a uvloop event loop starts processes raise what the hook could not, and
report the pid.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from types import ModuleType
from typing import Any

from agentcgroup.scope import restore
from agentcgroup.spawn import placement
from agentcgroup.spawn.fork_hooks import refusals

__all__ = ["patch_loop"]

#: Returns the transport and the protocol of a new process.
_Subprocess = Callable[..., Coroutine[Any, Any, tuple[Any, Any]]]


def patch_loop(uvloop: ModuleType) -> None:
    """Patch the event loop of module uvloop; it runs once, when the module is imported."""
    for name in ("subprocess_exec", "subprocess_shell"):
        setattr(uvloop.Loop, name, _reporting(getattr(uvloop.Loop, name)))


def _reporting(original: _Subprocess) -> _Subprocess:
    @functools.wraps(original)
    async def subprocess(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        target = placement.current_target()
        if target is None:
            return await original(*args, **kwargs)
        refused: list[BaseException] = []
        token = refusals.set(refused)
        try:
            transport, protocol = await original(*args, **kwargs)
        finally:
            restore(refusals, token)
        if refused:
            transport.close()
            raise refused[0]
        target.note_child(transport.get_pid())
        return transport, protocol

    return subprocess
