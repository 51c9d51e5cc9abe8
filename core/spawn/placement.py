"""The protocol between one spawn and its `scope.SpawnTarget`.

Every way to start a process ends in `place`, or in `begin_fork` where C code makes the fork. Both
call `begin_spawn` of the target, start the child in the cgroup that it returned, and call
`end_spawn`. Between the first two steps the cgroup can be removed, or get children of its own. Then
`begin_spawn` is called once more, with the error. If the second cgroup takes no process either, no
child starts: a process of a tool never runs outside the cgroup of its call.

A child that a call forks is in the call's cgroup already, and so are all its descendants. Its copy
of the call is useless, with locks in unknown states. Such a process is `inherited` until it ends,
and its patch points call the builtins.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import FrameType
from typing import Any, TypeVar

from agentcgroup import syscalls
from agentcgroup.cgroup.division import takes_no_process
from agentcgroup.errors import CgroupUnavailable
from agentcgroup.scope import SpawnTarget, current

try:
    from agentcgroup._native import PlacementError
except ImportError:

    class PlacementError(OSError):  # type: ignore[no-redef]  # the same class, without the extension
        """The cgroup takes no process.

        It was removed, has controllers of its own, or this process may not write to it.
        """


__all__ = [
    "PlacementError",
    "begin_fork",
    "current_target",
    "enable",
    "inherited",
    "mark_inherited",
    "migrate",
    "open_procs",
    "place",
    "refuse_divided",
    "starting",
]

Result = TypeVar("Result")

_enabled = False
_inherited = False


def enable(on: bool) -> None:
    """Turn the patch points and fork hooks on or off; when off, they place no process."""
    global _enabled
    _enabled = on


def inherited() -> bool:
    """Return whether a call forked this process, which is then in that call's cgroup for good."""
    return _inherited


def mark_inherited() -> None:
    """Make this process, which a call has just forked, place no process from now on."""
    global _inherited
    _inherited = True
    current.set(None)


def current_target() -> SpawnTarget | None:
    """Return the owner of a process that starts now; None if the process is not to be placed."""
    target = current.get()
    if target is None or _inherited or not _enabled:
        return None
    return target


def place(
    target: SpawnTarget, start: Callable[[int | None], Result], pid_of: Callable[[Result], int]
) -> Result:
    """Start a process in the cgroup that `target` gives.

    Args:
        target: the owner of the process.
        start: starts the process, given the cgroup's directory fd, or None to start it in the
            cgroup of this process.
        pid_of: returns the pid, given the result of `start`.

    Returns:
        The result of `start`.

    Raises:
        CgroupUnavailable: neither the first cgroup nor the second took the process.
        LimitExceeded: the call is over; no process was started.
        Exception: an error of `start` that concerns the program, not the cgroup.
    """
    failed: OSError | None = None
    while True:
        pid = None
        try:  # before the spawn begins: a signal handler may raise at its last step
            fd = target.begin_spawn(failed)
            result = start(fd)
            pid = pid_of(result)
        except PlacementError as error:
            if failed is not None:
                raise _no_place(error) from error
            failed = error
        else:
            return result
        finally:
            # In a forked child `target` is a copy: only the parent's target counts its spawns.
            if not _inherited:
                try:
                    target.end_spawn(pid)
                except BaseException:  # of a signal handler; a second end changes nothing
                    target.end_spawn(pid)
                    raise


def begin_fork(target: SpawnTarget, set_fork_target: Callable[[int], None]) -> None:
    """Begin a spawn whose fork other code makes.

    `set_fork_target` gets the cgroup's directory fd. The caller calls `target.end_spawn` after the
    fork, unless this function raises.

    Raises:
        CgroupUnavailable: neither the first cgroup nor the second takes a process.
        LimitExceeded: the call is over.
    """
    failed: OSError | None = None
    while True:
        try:
            fd = target.begin_spawn(failed)
            if fd is not None:
                set_fork_target(fd)
        except PlacementError as error:
            target.end_spawn(None)
            if failed is not None:
                raise _no_place(error) from error
            failed = error
        except BaseException:
            target.end_spawn(None)
            raise
        else:
            return


def starting(threads: Iterable[int], target: dict[str, Any]) -> bool:
    """Return whether one of the threads, given by their idents, is starting a process now.

    A thread that a signal handler has thrown out of `place` has no frame of this module, nor of the
    target's, whose globals `target` is.
    """
    frames = sys._current_frames()
    return any(_starts(frames.get(thread), target) for thread in threads)


def _starts(frame: FrameType | None, target: dict[str, Any]) -> bool:
    while frame is not None:
        if frame.f_globals is globals() or frame.f_globals is target:
            return True
        frame = frame.f_back
    return False


def open_procs(fd: int) -> int:
    """Open cgroup.procs of the cgroup whose directory `fd` is; the caller closes it.

    Raises:
        PlacementError: the cgroup was removed, or this process may not write to it.
    """
    try:
        return syscalls.open("cgroup.procs", os.O_WRONLY | os.O_CLOEXEC, dir_fd=fd)
    except OSError as error:
        raise PlacementError(error.errno, error.strerror) from error


def refuse_divided(fd: int) -> None:
    """Refuse a cgroup that takes no process, before a child forks that could only exit.

    Raises:
        PlacementError: EBUSY: the cgroup has children with controllers.
    """
    if takes_no_process(fd):
        raise PlacementError(errno.EBUSY, os.strerror(errno.EBUSY))


def migrate(fd: int, pid: int) -> None:
    """Move a running child into the cgroup whose directory `fd` is, unless it has ended."""
    procs = open_procs(fd)
    try:
        with suppress(ProcessLookupError):
            syscalls.write(procs, b"%d" % pid)
    finally:
        syscalls.close(procs)


def _no_place(error: OSError) -> CgroupUnavailable:
    return CgroupUnavailable(
        f"No process was started: the cgroup of the running tool call takes none ({error}).",
        fix="see whether something else removes or divides the cgroups of this run"
        " (agentcgroup doctor).",
    )
