"""The patch points: what stands in for each function by which Python code starts a process.

Each takes the place of one builtin wherever a module holds it, passes straight through outside of
a call, and else does the same with the child in the call's cgroup. subprocess, os.popen, asyncio,
multiprocessing and everything built on them come down to these six.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Any

from agentcgroup.scope import thread_working_for
from agentcgroup.spawn import placement
from agentcgroup.spawn.arguments import read_request
from agentcgroup.spawn.backend import Backend
from agentcgroup.spawn.forks import guarded
from agentcgroup.spawn.multiprocess import starts_daemon

if sys.platform == "linux":
    import _posixsubprocess

__all__ = ["Point", "make_points"]

#: What is replaced, and by what.
Point = tuple[Callable[..., Any], Callable[..., Any]]


def make_points(backend: Backend) -> list[Point]:
    """Return every builtin to replace, with what takes its place."""
    points = [
        _fork_exec(backend, _posixsubprocess.fork_exec),
        _system(backend, os.system),
        _posix_spawn(backend, os.posix_spawn, search=False),
        _posix_spawn(backend, os.posix_spawnp, search=True),
        _fork(backend, os.fork, pid_of=int),
        _fork(backend, os.forkpty, pid_of=lambda pair: int(pair[0])),
    ]
    # A builtin that is a class attribute does not bind to the instance, and a static method does
    # not either; a plain function would.
    return [(original, staticmethod(ours)) for original, ours in points]


def _fork_exec(backend: Backend, original: Callable[..., int]) -> Point:
    home_of_spawn = placement.home_of_spawn

    @functools.wraps(original)
    def fork_exec(*args: Any) -> int:
        home = home_of_spawn()
        if home is None:
            return original(*args)
        if starts_daemon(sys._getframe(1)):
            with thread_working_for(None):
                return original(*args)

        def start(fd: int | None) -> int:
            with guarded():
                return original(*args) if fd is None else backend.fork_exec(fd, args, original)

        return placement.place(home, start, int)

    return original, fork_exec


def _system(backend: Backend, original: Callable[[Any], int]) -> Point:
    @functools.wraps(original)
    def system(command: Any) -> int:
        home = placement.home_of_spawn()
        if home is None:
            return original(command)
        raw = os.fsencode(command)
        if b"\0" in raw:
            raise ValueError("embedded null byte")
        sys.audit("os.system", raw)
        held = backend.hold_signals()
        try:
            pid = placement.place(home, lambda fd: backend.shell(fd, raw, held), int)
            return backend.wait(pid)
        finally:
            backend.release_signals(held)

    return original, system


def _posix_spawn(backend: Backend, original: Callable[..., int], *, search: bool) -> Point:
    @functools.wraps(original)
    def posix_spawn(path: Any, argv: Any, env: Any, /, **options: Any) -> int:
        home = placement.home_of_spawn()
        if home is None:
            return original(path, argv, env, **options)
        request = read_request(original.__name__, path, argv, env, search=search, **options)

        def start(fd: int | None) -> int:
            if fd is None:
                return original(path, argv, env, **options)
            sys.audit("os.posix_spawn", path, argv, env)
            return backend.posix_spawn(fd, request)

        return placement.place(home, start, int)

    return original, posix_spawn


def _fork(backend: Backend, original: Callable[[], Any], *, pid_of: Callable[[Any], int]) -> Point:
    @functools.wraps(original)
    def fork() -> Any:
        home = placement.home_of_spawn()
        if home is None:
            return original()

        def start(fd: int | None) -> Any:
            with guarded():
                if fd is not None:
                    backend.arm(fd)
                try:
                    return original()
                finally:
                    backend.disarm()

        return placement.place(home, start, pid_of)

    return original, fork
