"""Waiting for the kernel: a cgroup that empties, a freeze that takes hold.

Theory of operation: both are keys of cgroup.events. A few short sleeps come first, because most
waits are over within a millisecond; then poll(2), because the kernel sends at most one notification
per file in 10 ms.
"""

from __future__ import annotations

import errno
import select
import time
from typing import Final

from agentcgroup import syscalls
from agentcgroup.cgroup import files
from agentcgroup.cgroup.files import Directory
from agentcgroup.threads import poll, sleep

__all__ = ["state", "until"]

#: Seconds of the sleeps before poll(2); together about the 10 ms of one notification.
_FIRST_SLEEPS: Final = (0.0002, 0.0004, 0.0008, 0.0016, 0.003, 0.004)
#: Seconds after which a poll(2) ends even without a notification, should one be missed.
_POLL_S: Final = 0.25


def state(directory: Directory, key: str) -> bool:
    """Return whether a key of cgroup.events is 1; False too when the cgroup is gone."""
    text = directory.read_optional(files.EVENTS)
    return text is not None and f"{key} 1" in text


def until(directory: Directory, key: str, wanted: bool, timeout: float) -> bool:
    """Wait until a key of cgroup.events has the wanted state; return whether it came to that.

    Args:
        directory: the cgroup; in one that is gone every key is 0.
        key: "populated" or "frozen".
        wanted: the state to wait for.
        timeout: seconds to wait at the most.
    """
    deadline = time.monotonic() + timeout
    for pause in _FIRST_SLEEPS:
        if state(directory, key) is wanted:
            return True
        if time.monotonic() + pause > deadline:
            break
        sleep(pause)
    try:
        fd = directory.watch(files.EVENTS)
    except OSError:
        return state(directory, key) is wanted
    try:
        changes = poll()
        changes.register(fd, select.POLLPRI)
        while True:
            syscalls.pread(fd, 256, 0)  # arms the notification, so that a change after it is seen
            if state(directory, key) is wanted:
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            changes.poll(min(left, _POLL_S) * 1000)
    except OSError as error:
        if error.errno != errno.ENODEV:  # the cgroup was removed during the wait
            raise
        return state(directory, key) is wanted
    finally:
        syscalls.close(fd)
