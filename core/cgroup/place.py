"""Where on this machine runs can be made, and what can be enforced there.

Theory of operation: `find` looks once (`probe`, facts only), picks the first way of `_WAYS` that
fits the facts, prepares a base there, and then proves it: a trial cgroup is made below the base,
given limits, and a process is put in. What the trial shows is what the Place promises; nothing is
concluded from versions or mere presence of files.

cgroup v2 has two rules that shape all this. A cgroup with controllers enabled for its children may
not hold processes itself, the machine's root excepted; so a subtree that was given to us is
divided: what lives in it moves to the leaf `agentcgroup.sup`, runs are made beside it. And who
moves a process needs write access to the common ancestor of both ends; so a user can work only
inside a subtree that is delegated and holds the process already.

Whatever cannot be had is told as a `Problem`, in words for the person at the machine.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import Final, Literal

from agentcgroup.cgroup import probe
from agentcgroup.cgroup.cgroup import Cgroup
from agentcgroup.cgroup.limits import Limits
from agentcgroup.cgroup.probe import Facts

__all__ = ["Place", "Problem", "find", "teardown"]

Kind = Literal["root", "delegated", "systemd-system", "systemd-user", "container", "given", "none"]

#: The directory under the machine's root that all our runs share.
BASE: Final = "agentcgroup"
#: The leaf that takes the processes of a subtree which we divide.
SUPERVISOR: Final = "agentcgroup.sup"
#: Names the base, where the right one cannot be found or should be another.
ROOT_VARIABLE: Final = "AGENTCGROUP_ROOT"

#: The controllers we have limits for, with limits to try each with.
_TRIALS: Final = {
    "memory": Limits(memory_max=256 << 20, memory_high=192 << 20, memory_oom_group=True),
    "cpu": Limits(cpu_weight=90, cpu_max=(90_000, 100_000)),
    "pids": Limits(pids_max=64),
    "io": Limits(),
    "cpuset": Limits(),
}
_CONTROLLERS: Final = frozenset(_TRIALS)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not enforced here.

    Attributes:
        what: what is not enforced.
        why: the reason, as a sentence.
        fix: what would change it, None when nothing here can.
    """

    what: str
    why: str
    fix: str | None = None

    def __str__(self) -> str:
        return f"{self.what}: {self.why}" + (f" Fix: {self.fix}" if self.fix else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where runs are made, and what holds there.

    Attributes:
        base: path of the cgroup below which runs are made; None when there is none.
        kind: how it was come by.
        controllers: those that the trial showed to work for the children of `base`.
        clone3: children can be born in a cgroup; else they are moved after the fork.
        problems: what is not enforced, and why.
        divided: `base` held processes and was divided by us; `teardown` puts it together again.
    """

    base: str | None
    kind: Kind
    controllers: frozenset[str] = frozenset()
    clone3: bool = False
    problems: tuple[Problem, ...] = ()
    divided: bool = False


def find(root: str | None = None) -> Place:
    """Find, prepare and prove the place for the runs of this process.

    May move this process and its neighbours within a subtree that is ours, and ask systemd for one.

    Args:
        root: the cgroup to work below; else $AGENTCGROUP_ROOT; else the best one that can be had.

    Returns:
        A place; one of kind "none" where this machine has nothing for us. Never raises for what
        the machine lacks: that is in `Place.problems`.
    """
    facts = probe.probe()
    given = root or os.environ.get(ROOT_VARIABLE)
    place = _given(given) if given else _root(facts)
    return place if place.base is None else _proved(place)


def teardown(place: Place) -> None:
    """Undo what `find` prepared, as far as nobody else uses it. Never raises."""
    if place.base is None:
        return
    with contextlib.suppress(OSError):
        if place.kind == "root":
            os.rmdir(place.base)  # refused by the kernel while any run is inside


# The ways


def _given(path: str) -> Place:
    return Place(base=path, kind="given")


def _root(facts: Facts) -> Place:
    """Work below the machine's own root, with nobody else in charge of it."""
    if facts.mount is None:
        return _nothing(Problem("all limits", "cgroup v2 is not mounted on this machine."))
    with contextlib.closing(Cgroup.open(facts.mount.point)) as top:
        top.enable(_CONTROLLERS)
        with contextlib.closing(top.child(BASE, exist_ok=True)) as base:
            base.enable(_CONTROLLERS)
            return Place(base=base.path, kind="root")


def _nothing(*problems: Problem) -> Place:
    return Place(base=None, kind="none", problems=problems)


# The proof


def _proved(place: Place) -> Place:
    """Return the place with what a real trial below its base has shown."""
    assert place.base is not None
    name = f"agentcgroup.trial-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        with contextlib.closing(Cgroup.open(place.base)) as base:
            trial = base.child(name)
            try:
                working = {name for name in base.enabled() & _CONTROLLERS if _limits(trial, name)}
                _hold_a_process(trial)
            finally:
                trial.remove()
                trial.close()
    except OSError as error:
        return _nothing(Problem("all limits", f"no cgroup can be made and used: {error}."))
    return replace(place, controllers=frozenset(working))


def _limits(trial: Cgroup, controller: str) -> bool:
    try:
        return not trial.set(_TRIALS[controller])
    except OSError:
        return False


def _hold_a_process(trial: Cgroup) -> None:
    """Put a waiting process into the trial cgroup and see it there."""
    command = ["/bin/sh", "-c", "read _"]
    if not os.path.exists(command[0]):
        command = [sys.executable, "-ISc", "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        try:
            trial.join(process.pid)
        finally:
            process.kill()
