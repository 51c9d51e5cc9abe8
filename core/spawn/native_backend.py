"""The backend of the C extension; `core/native/native.h` explains how it creates children."""

from __future__ import annotations

import errno
import os
from typing import Any

from agentcgroup import _native
from agentcgroup.spawn.backend import ForkExec, Mode
from agentcgroup.spawn.placement import migrate, refuse_divided
from agentcgroup.spawn.spawn_request import SpawnRequest
from agentcgroup.threads import standard_subprocess

__all__ = ["NativeBackend"]


#: How many arguments the fork_exec of each supported Python has (popen.c reads them).
_KNOWN_COUNTS = (21, 22, 23)


class NativeBackend:
    """Creates children in their cgroup without a migration where clone3 allows it."""

    def __init__(self) -> None:
        constants = standard_subprocess().Popen._execute_child.__code__.co_consts
        _native.set_chdir_report("noexec:chdir" if "noexec:chdir" in constants else "noexec")

    def mode(self) -> tuple[Mode, str | None]:
        """Return "clone3", or "vfork" and the error of clone3."""
        mode, error = _native.spawn_mode()
        if mode == "clone3":
            return "clone3", None
        name = errno.errorcode.get(error, str(error))
        return "vfork", f"clone3 into a cgroup answers {name} ({os.strerror(error)})"

    def fork_exec(self, fd: int, args: tuple[Any, ...], original: ForkExec) -> int:
        """Create the child in C; where the request needs a real fork, by `original`.

        The child of the real fork joins the cgroup in the C fork handler.
        """
        pid = _native.fork_exec(fd, args)
        if pid is not None:
            return pid
        try:
            self.set_fork_target(fd)
            pid = original(*args)
        finally:
            _native.clear_fork_target()
        if len(args) not in _KNOWN_COUNTS:
            # The fork_exec of a future Python may have used vfork, which runs no fork handlers.
            migrate(fd, pid)
        return pid

    def posix_spawn(self, fd: int, request: SpawnRequest) -> int:
        """Create the child in C."""
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

    def start_shell(self, fd: int | None, command: bytes, mask: int) -> int:
        """Create the shell in C."""
        return _native.start_shell(-1 if fd is None else fd, command, mask)

    builtin_like = staticmethod(_native.builtin_like)
    begin_system = staticmethod(_native.begin_system)
    end_system = staticmethod(_native.end_system)
    wait = staticmethod(_native.wait)
    refuse_forks = staticmethod(_native.refuse_forks)
    clear_fork_target = staticmethod(_native.clear_fork_target)

    def set_fork_target(self, fd: int) -> None:
        """Have the C fork handler place the children of this thread's forks."""
        refuse_divided(fd)
        _native.set_fork_target(fd)

    def after_fork_in_child(self) -> None:
        """Do nothing: the C fork handler has placed the child before fork() returned in it."""
