"""What runs that died have left: at the start of a run it is killed, and then removed."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from agentcgroup.cgroup import Cgroup
from agentcgroup.place.owner import kill_orphans, reap
from agentcgroup.place.place import Place, bases

__all__ = ["kill", "remove"]

logger = logging.getLogger("agentcgroup")


def kill(place: Place) -> None:
    """Kill the processes that dead runs left behind; waits for none of them."""
    with contextlib.suppress(OSError):  # `remove` meets it, too, on a thread that logs it
        for base in _bases(place):
            kill_orphans(base)


def remove(place: Place) -> None:
    """Remove what dead runs left behind; waits for processes to die."""
    for base in _bases(place):
        for reaped in reap(base):
            if reaped.error is None:
                logger.info("agentcgroup: removed %s, left by a run that died", reaped.path)
            else:
                logger.warning("agentcgroup: left by a run that died: %s", reaped.error)


def _bases(place: Place) -> Iterator[Cgroup]:
    """Yield the cgroups below which runs may be, open until the next one."""
    for path in bases(place):
        with (
            contextlib.suppress(FileNotFoundError),  # a scope that has just ended
            contextlib.closing(Cgroup.open(path)) as base,
        ):
            yield base
