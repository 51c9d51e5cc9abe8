"""How one child gets its place: the protocol between a spawn and the call it belongs to.

Every way of starting a process ends in `place`, or, for forks that C code makes, in `arm`: ask
the call for its cgroup, start the child in it, tell the call. A cgroup can vanish or be divided
between the two steps; the call is then asked once more, with the error, and if that does not help
the child is not started at all: a tool's process outside its call is what this package must not
let happen.

A child that this process forks inside a call is already where it belongs, and so are all its
descendants. Its copy of the call is dead weight with locks in unknown states: such a process is
`inherited` for good and passes every spawn through untouched.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from agentcgroup.errors import CgroupUnavailable
from agentcgroup.scope import SpawnTarget, current

try:
    from agentcgroup._native import PlacementError
except ImportError:

    class PlacementError(OSError):  # type: ignore[no-redef]  # the same thing without the extension
        """The cgroup takes no process: it is gone, has controllers of its own, or is not ours."""


__all__ = [
    "PlacementError",
    "adopt",
    "arm",
    "home_of_spawn",
    "inherit",
    "inherited",
    "open_procs",
    "place",
    "switch",
]

Started = TypeVar("Started")

_installed = False
_inherited = False


def switch(on: bool) -> None:
    """Turn the patch points on or off; off, they pass everything through."""
    global _installed
    _installed = on


def inherited() -> bool:
    """Return whether this process was forked inside a call, and so lives in that call's cgroup."""
    return _inherited


def inherit() -> None:
    """Make this process, just forked inside a call, leave all placing to the kernel."""
    global _inherited
    _inherited = True
    current.set(None)


def home_of_spawn() -> SpawnTarget | None:
    """Return the call that a process started now belongs to, None to start it untouched."""
    home = current.get()
    if home is None or _inherited or not _installed:
        return None
    return home


def place(
    home: SpawnTarget, start: Callable[[int | None], Started], pid_of: Callable[[Started], int]
) -> Started:
    """Start a process with `start(directory fd of its cgroup)`, as `home` says.

    Raises:
        CgroupUnavailable: the cgroup took no process, nor did the one given instead.
        LimitExceeded: the call is over; nothing was started.
        Exception: whatever `start` raises on account of the program.
    """
    failed: OSError | None = None
    while True:
        fd = home.begin_spawn(failed)
        pid = None
        try:
            started = start(fd)
            pid = pid_of(started)
        except PlacementError as error:
            if failed is not None:
                raise _no_place(error) from error
            failed = error
        else:
            return started
        finally:
            # In a forked child `home` is a copy of the parent's, and not ours to tell.
            if not _inherited:
                home.end_spawn(pid)


def arm(home: SpawnTarget, use: Callable[[int], None]) -> None:
    """Begin a spawn whose fork happens elsewhere: `use` gets the cgroup's directory fd.

    The caller calls `home.end_spawn` after the fork, unless this raises.
    """
    failed: OSError | None = None
    while True:
        fd = home.begin_spawn(failed)
        try:
            if fd is not None:
                use(fd)
        except PlacementError as error:
            home.end_spawn(None)
            if failed is not None:
                raise _no_place(error) from error
            failed = error
        else:
            return


def open_procs(fd: int) -> int:
    """Open cgroup.procs of the cgroup whose directory `fd` is; the caller closes it.

    Raises:
        PlacementError: it is gone, or not ours to write.
    """
    try:
        return os.open("cgroup.procs", os.O_WRONLY | os.O_CLOEXEC, dir_fd=fd)
    except OSError as error:
        raise PlacementError(error.errno, error.strerror) from error


def adopt(fd: int, pid: int) -> None:
    """Move a running child into the cgroup whose directory `fd` is; one that ended needs none."""
    procs = open_procs(fd)
    try:
        with suppress(ProcessLookupError):
            os.write(procs, b"%d" % pid)
    finally:
        os.close(procs)


def _no_place(error: OSError) -> CgroupUnavailable:
    return CgroupUnavailable(
        f"No process was started: the cgroup of the running tool call takes none ({error}).",
        fix="see whether something else removes or divides the cgroups of this run"
        " (agentcgroup doctor).",
    )
