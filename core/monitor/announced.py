"""The cgroups that the app has announced to the helper, and its questions about their calls' ends.

A cgroup that is made before the helper is ready is kept here and announced when the helper is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from agentcgroup.monitor import wire
from agentcgroup.threads import Event

__all__ = ["AnnouncedCgroups", "CounterSlots"]

#: Cgroups that are kept before the first look for those that were removed.
_PRUNE: Final = 256


class CounterSlots(Protocol):
    """Registers cgroups with the kernel from the app; `bpf.AppSlots` implements it."""

    def follow(self, cgroup: int) -> int:
        """Have the kernel count what is born in a cgroup; returns its counter slot, 0 for none."""

    def forget(self, cgroup: int) -> None:
        """Use the counter slot of a cgroup again, which the helper has stopped following."""


class AnnouncedCgroups:
    """Cgroups of calls, by id, from when they are made until their call is asked for."""

    def __init__(self, send: Callable[[wire.Message], bool]) -> None:
        """Begin empty; `send` sends a message to the helper, False when it cannot be sent."""
        self._send = send
        self._paths: dict[int, str] = {}
        self._prune_at = _PRUNE
        self._asked: dict[int, tuple[Event, list[wire.Message]]] = {}
        self._late = False
        self._slots: CounterSlots | None = None

    def use_slots(self, slots: CounterSlots) -> None:
        """Register cgroups with the kernel from now on, by the slots that the helper has sent."""
        self._slots = slots

    def keep(self, cgroup: int, path: str) -> None:
        """Keep a cgroup that was made."""
        self._paths[cgroup] = path

    def kept(self) -> Sequence[tuple[int, str]]:
        """Return id and path of every cgroup that is kept."""
        return tuple(self._paths.items())

    def announce(self, cgroup: int, path: str, *, late: bool = False) -> None:
        """Send a cgroup to the helper; `late`: processes may be in it already."""
        slots = self._slots
        slot = 0 if slots is None else slots.follow(cgroup)
        self._send({"do": "add", "id": cgroup, "path": path, "late": late, "slot": slot})

    def prune(self) -> None:
        """Forget cgroups that were removed without a question, as spares are; seldom looks."""
        if len(self._paths) < self._prune_at:
            return
        for cgroup, path in self.kept():
            if not os.path.exists(path) and self._paths.pop(cgroup, None) is not None:
                self._ask(cgroup, ())
        self._prune_at = 2 * len(self._paths) + _PRUNE

    def pop(self, cgroup: int) -> bool:
        """Drop a cgroup; returns whether it was kept."""
        return self._paths.pop(cgroup, None) is not None

    def ask(
        self, cgroup: int, started: Sequence[int], *, patience: float, hurry: float
    ) -> wire.Message | None:
        """Ask what happened in a cgroup whose call is over, and have the helper forget it.

        Args:
            cgroup: its id.
            started: processes that the app has placed in it.
            patience: seconds to wait for the answer.
            hurry: seconds to wait instead, after a question without an answer in time.

        Returns:
            The answer, None when there is none in time or the helper is gone.
        """
        answered, answer = Event(), list[wire.Message]()
        self._asked[cgroup] = (answered, answer)
        try:
            if not self._ask(cgroup, started):
                return None
            self._late = not answered.wait(hurry if self._late else patience)
        finally:
            self._asked.pop(cgroup, None)
        return answer[0] if answer else None

    def answer(self, message: wire.Message) -> None:
        """Hand an answer to the thread that asked; the counter slot of the cgroup is free again."""
        self._late = False
        if self._slots is not None:
            self._slots.forget(message["id"])
        asked = self._asked.get(message["id"])
        if asked is not None:
            asked[1].append(message)
            asked[0].set()

    def clear(self) -> None:
        """Forget every cgroup and end every question: the helper is gone."""
        self._paths.clear()
        for answered, _ in tuple(self._asked.values()):
            answered.set()

    def _ask(self, cgroup: int, started: Sequence[int]) -> bool:
        return self._send({"do": "end", "id": cgroup, "started": [*started]})
