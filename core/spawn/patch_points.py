"""The patch points: the replacement of each builtin by which Python code creates a process.

A replacement stands wherever a module holds the builtin as a global. Outside of a call it calls the
builtin; in a call it does the same with the child in the call's cgroup. A replacement of a builtin
is a builtin itself: it pickles by its name, and does not bind to an instance. subprocess, os.popen,
asyncio, multiprocessing and the libraries on top of them use these six builtins.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from types import BuiltinFunctionType
from typing import Any, Final

from agentcgroup.scope import current, thread_working_for
from agentcgroup.spawn import placement
from agentcgroup.spawn.backend import Backend
from agentcgroup.spawn.fork_hooks import without_fork_hooks
from agentcgroup.spawn.fork_warning import WARNS, own_threads_unwarned
from agentcgroup.spawn.multiprocessing_daemons import starts_daemon
from agentcgroup.spawn.spawn_request import read_request

if sys.platform == "linux":
    import _posixsubprocess

__all__ = ["PatchPoint", "make_patch_points"]

#: The index of preexec_fn in the arguments of fork_exec, from Python 3.11 on.
_PREEXEC: Final = 21

#: The builtin, and its replacement.
PatchPoint = tuple[Callable[..., Any], Callable[..., Any]]


def make_patch_points(backend: Backend) -> list[PatchPoint]:
    """Return every builtin to replace, with its replacement."""
    points = [
        _fork_exec(backend, _posixsubprocess.fork_exec),
        _system(backend, os.system),
        _posix_spawn(backend, os.posix_spawn, search=False),
        _posix_spawn(backend, os.posix_spawnp, search=True),
        _fork(backend, os.fork, pid_of=int),
        _fork(backend, os.forkpty, pid_of=lambda pair: int(pair[0])),
    ]
    return [
        # Where another library has replaced the builtin before, the replacement is a function, too.
        (original, backend.builtin_like(original, replacement, _get_for(original)))
        if type(original) is BuiltinFunctionType
        else (original, replacement)
        for original, replacement in points
    ]


def _get_for(original: Callable[..., Any]) -> Callable[[], Any]:
    """Return what returns None where the builtin itself can be called: outside of calls.

    Of forks Python would warn there; see `fork_warning`.
    """
    forks = (os.fork, os.forkpty, _posixsubprocess.fork_exec)
    return bool if WARNS and original in forks else current.get


def _fork_exec(backend: Backend, original: Callable[..., int]) -> PatchPoint:
    current_target = placement.current_target

    def builtin(*args: Any) -> int:
        # It forks for a preexec_fn, and then warns from Python 3.12 on, which has it at this index.
        if len(args) > _PREEXEC and args[_PREEXEC] is not None:
            with own_threads_unwarned():
                return original(*args)
        return original(*args)

    @functools.wraps(original)
    def fork_exec(*args: Any) -> int:
        target = current_target()
        if target is None:
            return builtin(*args)
        if starts_daemon(sys._getframe(1)):
            with thread_working_for(None):
                return builtin(*args)

        def start(fd: int | None) -> int:
            with without_fork_hooks():
                return builtin(*args) if fd is None else backend.fork_exec(fd, args, builtin)

        return placement.place(target, start, int)

    return original, fork_exec


def _system(backend: Backend, original: Callable[[Any], int]) -> PatchPoint:
    @functools.wraps(original)
    def system(command: Any) -> int:
        target = placement.current_target()
        if target is None:
            return original(command)
        raw = os.fsencode(command)
        if b"\0" in raw:
            raise ValueError("embedded null byte")
        sys.audit("os.system", raw)
        try:
            mask = backend.begin_system()
            pid = placement.place(target, lambda fd: backend.start_shell(fd, raw, mask), int)
            status = backend.wait(pid)
            return status  # noqa: RET504 - a signal handler raises before the line ends
        finally:
            backend.end_system()

    return original, system


def _posix_spawn(backend: Backend, original: Callable[..., int], *, search: bool) -> PatchPoint:
    @functools.wraps(original)
    def posix_spawn(path: Any, argv: Any, env: Any, /, **options: Any) -> int:
        target = placement.current_target()
        if target is None:
            return original(path, argv, env, **options)
        request = read_request(original.__name__, path, argv, env, search=search, **options)

        def start(fd: int | None) -> int:
            if fd is None:
                return original(path, argv, env, **options)
            sys.audit("os.posix_spawn", path, argv, env)
            return backend.posix_spawn(fd, request)

        return placement.place(target, start, int)

    return original, posix_spawn


def _fork(
    backend: Backend, original: Callable[[], Any], *, pid_of: Callable[[Any], int]
) -> PatchPoint:
    @functools.wraps(original)
    def fork() -> Any:
        target = placement.current_target()
        if target is None:
            with own_threads_unwarned():
                return original()

        def start(fd: int | None) -> Any:
            with without_fork_hooks(), own_threads_unwarned():
                try:
                    if fd is not None:
                        backend.set_fork_target(fd)
                    return original()
                finally:
                    backend.clear_fork_target()

        return placement.place(target, start, pid_of)

    return original, fork
