"""Ask the processes that outlive a call to end: SIGTERM, before the SIGKILL that follows.

A program removes its lock files in a handler of SIGTERM. A lock that stays breaks later calls:
while `.git/gc.log.lock` is there, `git gc --auto` does nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal

from agentcgroup.containment.process_group import ProcessGroup

__all__ = ["terminate"]


def terminate(group: ProcessGroup) -> None:
    """Send SIGTERM to every process in a group and below it.

    A stopped process is continued, since it would not handle the signal.
    """
    fds: dict[int, int] = {}
    try:
        for pid in group.all_procs():
            # Of another pid namespace (0), gone, refused, or no descriptor left: SIGKILL does it.
            with contextlib.suppress(OSError):
                fds[pid] = os.pidfd_open(pid)
        # A pid may be another process's by the time its descriptor is opened. One that is still in
        # the group is not.
        for pid in fds.keys() & set(group.all_procs()):
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(fds[pid], signal.SIGTERM)
                signal.pidfd_send_signal(fds[pid], signal.SIGCONT)
    finally:
        for fd in fds.values():
            os.close(fd)
