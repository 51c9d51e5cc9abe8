"""The adoption of processes that were born outside: the app makes the cgroup of their call.

The helper moves a child that was born outside into its call's cgroup. Where the call has no cgroup
yet, only the app can make it: the helper asks for it by the number of the call.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from agentcgroup.monitor import wire
from agentcgroup.monitor.watched import WatchedCall
from agentcgroup.threads import Event

__all__ = ["Adoptions"]

logger = logging.getLogger("agentcgroup")


class Adoptions:
    """Adopts processes for the calls that occupy a thread slot."""

    def __init__(
        self, calls: Mapping[int, WatchedCall], send: Callable[[wire.Message], bool]
    ) -> None:
        """Serve `calls`, by their numbers; `send` sends a message to the helper."""
        self._calls = calls
        self._send = send
        #: By the number of the call; set once its process is adopted. `Monitor.vacate` drops it.
        self.done: dict[int, Event] = {}

    def wait(self, number: int, timeout: float) -> None:
        """Wait until the process that the helper has found for a call is adopted.

        Args:
            number: the call's.
            timeout: seconds to wait at most.
        """
        self._adopted(number).wait(timeout)

    def adopt(self, pid: int, number: int) -> None:
        """Have the call adopt a process; the helper kills it when the call is over."""
        call = self._calls.get(number)
        try:
            cgroup = None if call is None else call.adopt(pid)
        except Exception:
            logger.exception("agentcgroup: a process born outside of its call is not contained")
            return
        finally:
            self._adopted(number).set()
        if cgroup is None:
            self.done.pop(number, None)
            logger.warning("agentcgroup: ended a process that a call had started unseen: %d", pid)
            self._send({"do": "kill", "pid": pid})
        else:
            self._send({"do": "move_in", "pid": pid, "id": cgroup.id})

    def release_all(self) -> None:
        """End every `wait`: the helper is gone."""
        for adopted in tuple(self.done.values()):
            adopted.set()

    def _adopted(self, number: int) -> Event:
        return self.done.setdefault(number, Event())
