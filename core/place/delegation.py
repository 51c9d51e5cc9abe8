"""Dividing a delegated cgroup into a leaf for its processes and room for runs, and back.

A cgroup with controllers enabled for its children may not hold processes itself, the machine's root
excepted (cgroup-v2.rst, "No Internal Process Constraint"). So its processes move to the leaf
`agentcgroup.sup`, and runs are made beside that leaf. Processes can move back only when the
controllers are off again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from typing import Final

from agentcgroup.cgroup.cgroup import Cgroup
from agentcgroup.place import problems
from agentcgroup.place.problems import Problem
from agentcgroup.threads import sleep

__all__ = ["SUPERVISOR", "divide", "reunite"]

#: The leaf that the processes move to.
SUPERVISOR: Final = "agentcgroup.sup"

#: A process may fork while it is moved; only a fork bomb still has new ones after so many passes.
_PASSES: Final = 5
_PAUSE_S: Final = 0.01


def divide(path: str, controllers: Iterable[str]) -> Problem | None:
    """Empty a cgroup and enable those controllers for its children that it has.

    Returns:
        The problem where the cgroup cannot be emptied; then nothing was changed, and cgroups can
        still be made in it, without controllers. None also where the kernel refuses a controller:
        see `Cgroup.why_not`.

    Raises:
        OSError: the cgroup is gone, or this process may not write to it.
    """
    with contextlib.closing(Cgroup.open(path)) as top:
        wanted = top.available().intersection(controllers)
        for _ in range(_PASSES):
            if wanted <= top.enabled():
                return None
            why = None if top.is_machine_root() else _evacuate(top)
            if why is not None:
                return problems.occupied(path, wanted, why)
            if wanted <= top.enable(wanted):
                return None
            sleep(_PAUSE_S)  # a process entered meanwhile, or another program divides it too
    return None


def reunite(path: str) -> None:
    """Undo `divide`, unless another program has made cgroups there meanwhile."""
    with contextlib.closing(Cgroup.open(path)) as top:
        if set(top.children()) == {SUPERVISOR}:
            top.disable(top.enabled())
            _move_back(top)


def _evacuate(top: Cgroup) -> str | None:
    """Move all processes of `top` into its leaf, or none; return why some cannot be moved."""
    if not top.procs():
        return None
    why = "new ones keep coming"
    with contextlib.closing(top.child(SUPERVISOR, exist_ok=True)) as leaf:
        for _ in range(_PASSES):
            pids = top.procs()
            if not pids:
                return None
            if 0 in pids:
                why = "one belongs to another pid namespace"
                break
            for pid in pids:
                try:
                    leaf.join(pid)
                except ProcessLookupError:  # it ended meanwhile
                    continue
                except OSError as error:
                    why = str(error)
    _move_back(top)
    return why


def _move_back(top: Cgroup) -> None:
    leaf_path = f"{top.path}/{SUPERVISOR}"
    with contextlib.suppress(OSError):
        with contextlib.closing(Cgroup.open(leaf_path)) as leaf:
            for pid in filter(None, leaf.procs()):
                with contextlib.suppress(ProcessLookupError):
                    top.join(pid)
        os.rmdir(leaf_path)
