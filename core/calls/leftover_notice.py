"""The log line about programs that a tool left running: which rule keeps them.

A tool may rely on what it left: a server, a browser, a JVM that later calls use. Only the user can
tell that from a process that was forgotten, so each program is logged once, with the rule to add.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Final

from agentcgroup.containment.process_tree import stat_of

if TYPE_CHECKING:
    from agentcgroup.calls.call import Call

__all__ = ["tell_leftovers"]

#: Number of processes that are looked at; a fork bomb leaves more.
_LOOKED_AT: Final = 32
#: What else ends with a program, by the name of its process.
_CONSEQUENCES: Final = {
    "raylet": " Ray ends every program that is connected to it, which may be this one.",
    "gcs_server": " Ray ends every program that is connected to it, which may be this one.",
}


def tell_leftovers(call: Call, pids: Iterable[int]) -> None:
    """Log each program among the processes once per session, before they are ended."""
    found = map(stat_of, islice(pids, _LOOKED_AT))
    for name in sorted({stat.name for stat in found if stat is not None}):
        call.services.warn(
            f"{name!r}, which tool {call.tool!r} left running, is ended with the call."
            f"{_CONSEQUENCES.get(name, '')} This rule keeps it until the agent ends:\n"
            f'[[rules]]\ntool = {json.dumps(glob.escape(call.tool))}\nbackground = "keep"',
            about=f"left running: {name}",
        )
