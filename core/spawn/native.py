"""Children started by the C extension; `core/_native.c` has the theory."""

from __future__ import annotations

import errno
import os
import subprocess
from typing import Any

from agentcgroup import _native
from agentcgroup.spawn.arguments import SpawnRequest
from agentcgroup.spawn.backend import ForkExec, Mode
from agentcgroup.spawn.placement import adopt

__all__ = ["Native"]


#: Numbers of arguments of fork_exec that _native.c reads; they need no adopting.
_KNOWN_SHAPES = (21, 22, 23)


class Native:
    """The `Backend` that places without migrating."""

    def __init__(self) -> None:
        constants = getattr(subprocess.Popen, "_execute_child").__code__.co_consts  # noqa: B009
        _native.set_chdir_report("noexec:chdir" if "noexec:chdir" in constants else "noexec")

    def mode(self) -> tuple[Mode, str | None]:
        """Return "clone3", or "vfork" and what clone3 answered."""
        mode, error = _native.spawn_mode()
        if mode == "clone3":
            return "clone3", None
        name = errno.errorcode.get(error, str(error))
        return "vfork", f"clone3 into a cgroup answers {name} ({os.strerror(error)})"

    def fork_exec(self, fd: int, args: tuple[Any, ...], original: ForkExec) -> int:
        """Born inside; a request that needs a real fork joins in the C fork handler."""
        pid = _native.fork_exec(fd, args)
        if pid is not None:
            return pid
        _native.arm(fd)
        try:
            pid = original(*args)
        finally:
            _native.disarm()
        if len(args) not in _KNOWN_SHAPES:
            # A fork_exec of the future may have used vfork, which runs no fork handlers.
            adopt(fd, pid)
        return pid

    def posix_spawn(self, fd: int, request: SpawnRequest) -> int:
        """Born inside."""
        return _native.posix_spawn(
            fd,
            request.path,
            request.executables,
            request.argv,
            request.env,
            request.actions,
            request.attributes,
            request.pgroup,
            request.sigmask,
            request.sigdefault,
            request.policy,
            request.priority,
        )

    def shell(self, fd: int | None, command: bytes, held: int) -> int:
        """Born inside."""
        return _native.shell(-1 if fd is None else fd, command, held)

    hold_signals = staticmethod(_native.hold_signals)
    release_signals = staticmethod(_native.release_signals)
    wait = staticmethod(_native.wait)
    arm = staticmethod(_native.arm)
    refuse = staticmethod(_native.refuse)
    disarm = staticmethod(_native.disarm)

    def after_fork_in_child(self) -> None:
        """Nothing: the child was placed before fork() returned in it."""
