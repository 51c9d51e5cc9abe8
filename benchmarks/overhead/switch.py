"""agentcgroup on and off in one process; off, the functions are those of before `register`."""

from __future__ import annotations

import _posixsubprocess
import concurrent.futures
import os
import subprocess
import threading
from typing import Any

from langchain_core.tools import BaseTool

import agentcgroup
from agentcgroup import Session
from agentcgroup.calls.services import set_active

#: Whatever `register` may put something of its own into that the measured work runs through.
_OWNERS: tuple[Any, ...] = (
    _posixsubprocess,
    os,
    subprocess,
    threading.Thread,
    concurrent.futures.ThreadPoolExecutor,
    BaseTool,
)


class Switch:
    """Registers, and remembers what that has changed; registered is also its first state.

    What `register` changed is found by comparing, not by asking it, so that a hook added later is
    taken off too.
    """

    def __init__(self) -> None:
        before = [dict(vars(owner)) for owner in _OWNERS]
        self.session: Session = agentcgroup.register("langchain", config={})
        self._hooks = [
            (owner, name, was[name], hook)
            for owner, was in zip(_OWNERS, before, strict=True)
            for name, hook in dict(vars(owner)).items()
            if name in was and was[name] is not hook
        ]
        hooked = {name for _, name, _, _ in self._hooks}
        if "run" not in hooked or not any("fork_exec" in name for name in hooked):
            raise RuntimeError(f"only {sorted(hooked)} were hooked: nothing is left to compare")

    def off(self) -> None:
        """Put everything back as it was before."""
        set_active(None)
        for owner, name, original, _ in self._hooks:
            setattr(owner, name, original)

    def on(self) -> None:
        """Put the hooks in again."""
        for owner, name, _, hook in self._hooks:
            setattr(owner, name, hook)
        set_active(self.session._services)

    def settle(self) -> None:
        """Wait until all that happens behind the calls has happened."""
        self.session._services.deferred.drain()

    def close(self) -> None:
        """Unregister."""
        self.on()
        agentcgroup.unregister()
