"""Turn agentcgroup on and off in one process; off restores the functions from before `register`."""

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

#: Modules and classes that the measured work uses and in which `register` may replace functions.
_OWNERS: tuple[Any, ...] = (
    _posixsubprocess,
    os,
    subprocess,
    threading.Thread,
    concurrent.futures.ThreadPoolExecutor,
    BaseTool,
)


class Switch:
    """Registers, and keeps the functions that this replaced; it starts in the state "on".

    It finds the hooks by comparing the owners before and after `register`. So it also removes hooks
    that a later version adds.
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
            raise RuntimeError(f"only {sorted(hooked)} were hooked, so there is nothing to compare")

    def off(self) -> None:
        """Restore the original functions."""
        set_active(None)
        for owner, name, original, _ in self._hooks:
            setattr(owner, name, original)

    def on(self) -> None:
        """Set the hooks again."""
        for owner, name, _, hook in self._hooks:
            setattr(owner, name, hook)
        set_active(self.session._services)

    def drain(self) -> None:
        """Wait until the background work of all calls is done."""
        self.session._services.deferred.drain()

    def close(self) -> None:
        """Unregister."""
        self.on()
        agentcgroup.unregister()
