"""Worker processes: where a tool's body runs under ``isolation = "process"``.

Theory of operation: the app's process is never forked, since a fork of a threaded process inherits
locks that nobody will open. A **zygote** is executed once per session: a Python of one thread that
imports what the tools need and does nothing else. **Workers** are forks of it, each born by
clone3(CLONE_INTO_CGROUP) in a cgroup that will be the one of a call, and wait there. A call takes
one, sends it the pickled body over the socket that is theirs alone, and reads the result from it:
one message each way, and nobody between them. A worker serves one call (or ``reuse`` of them) and
is replaced behind it.

In the app's process: `pool` (warm workers) > `launcher` (the zygote's handle). In the others:
`zygote` > `worker`. In both: `carry` (what a body finds around itself, and what it says) >
`shipping` (pickling) > `transport` (messages) > `remote` (large ones). The zygote imports no
session and no settings: every start waits for what it imports.

No sandbox: a worker runs the user's own tool, and the app unpickles what it sends back.
"""

from __future__ import annotations

__all__ = ["inside", "step_inside"]

_inside = False


def inside() -> bool:
    """Return whether this is a zygote or a worker: it lives in a cgroup and makes none itself."""
    return _inside


def step_inside() -> None:
    """Make this process one of those for good."""
    global _inside
    _inside = True
