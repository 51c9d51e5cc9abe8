"""Where on this machine runs can be made, and what can be enforced there.

Theory of operation: `find` looks (`probe`, facts only), takes the first of `_WAYS` that fits the
facts, prepares a base there, and then proves it (`trial`): a cgroup is made below the base, given
limits, and a process is put in. What the trial shows is what the Place promises; nothing is
concluded from versions or the mere presence of files.

Who moves a process needs write access to the common ancestor of both ends. So root may work
anywhere, a user only inside a subtree that is delegated and holds the process already; such a
subtree is divided first (`division`).

Every step may be taken by several processes at once: directories that are there already are taken
as they are, and enabling what is enabled does nothing. One that tears a base down as another has
just found it leaves the other with ENOENT, or with limits that `Cgroup.set` reports as not applied:
both are loud, and finding again mends them.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal

from agentcgroup.cgroup.cgroup import Cgroup
from agentcgroup.cgroup.limits import CONTROLLERS
from agentcgroup.place import owner, probe, problems, systemd, trial
from agentcgroup.place.delegation import SUPERVISOR, divide, reunite
from agentcgroup.place.probe import Facts
from agentcgroup.place.problems import Problem

__all__ = ["Place", "bases", "find", "teardown"]

Kind = Literal["root", "delegated", "systemd-system", "systemd-user", "container", "given", "none"]

#: The directory under the machine's root that all our runs share.
BASE: Final = "agentcgroup"
#: Names the base, where the right one cannot be found or should be another.
ROOT_VARIABLE: Final = "AGENTCGROUP_ROOT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where runs are made, and what holds there.

    Attributes:
        base: path of the cgroup below which runs are made; None when there is none.
        kind: how it was come by.
        controllers: those that the trial showed to work for the children of `base`.
        problems: what is not enforced, and why.
    """

    base: str | None
    kind: Kind
    controllers: frozenset[str] = frozenset()
    problems: tuple[Problem, ...] = ()


def find(root: str | None = None) -> Place:
    """Find, prepare and prove the place for the runs of this process.

    May ask systemd for a scope, and moves this process and its neighbours within a subtree that is
    ours. Takes about 20 ms, more where systemd is asked.

    Args:
        root: the cgroup to work below; else $AGENTCGROUP_ROOT; else the best one that can be had.

    Returns:
        A place; one of kind "none" where this machine has nothing for us. What the machine lacks
        is never raised: it is in `Place.problems`.
    """
    if sys.platform != "linux":
        return _nothing(problems.NOT_LINUX)
    facts = probe.probe()
    if "/ray-node_" in (facts.own or ""):
        return _nothing(problems.INSIDE_RAY)
    given = root or os.environ.get(ROOT_VARIABLE)
    if _inside_a_run(facts):  # before all else: $AGENTCGROUP_ROOT may be the outer run's
        return _first_that_works((_nested,), facts)
    if given:
        return _first_that_works((functools.partial(_given, given),), facts)
    return _first_that_works(_WAYS, facts)


def teardown(place: Place) -> None:
    """Undo what `find` prepared, as far as nobody else uses it. Never raises."""
    if place.base is None or place.kind in ("systemd-system", "systemd-user"):
        return  # a scope goes with its last process, as it is
    with contextlib.suppress(OSError):
        if place.kind == "root":
            os.rmdir(place.base)  # refused by the kernel while any run is inside
        else:
            reunite(place.base)


def bases(place: Place) -> list[str]:
    """Return the paths below which runs like those of `place` are made, its own among them.

    Under systemd every run has a scope of its own, which outlives it while processes are left.
    """
    if place.base is None:
        return []
    if place.kind not in ("systemd-system", "systemd-user"):
        return [place.base]
    return sorted(glob.glob(f"{glob.escape(os.path.dirname(place.base))}/{systemd.NAME}-*.scope"))


def _first_that_works(ways: tuple[_Way, ...], facts: Facts) -> Place:
    failed: tuple[Problem, ...] = ()
    for way in ways:
        try:
            place = way(facts)
            if place is not None:
                place = _proved(place, facts)
                # What failed before is worth telling only where something is missing now.
                return replace(place, problems=place.problems and (*failed, *place.problems))
        except _Unusable as error:
            failed += (error.problem,)
        except OSError as error:
            failed += (problems.failed(error),)
        else:
            continue
        facts = probe.probe()  # what failed may have moved us
    return _nothing(*(failed or (problems.no_way(facts),)))


def _proved(place: Place, facts: Facts) -> Place:
    """Return the place with what a real trial below its base has shown."""
    assert place.base is not None
    verdict = trial.run(place.base, facts)
    # Where the way here has a reason for what is missing, it is the better one.
    told = place.problems or verdict.problems
    return replace(place, controllers=verdict.controllers, problems=told)


def _nothing(*found: Problem) -> Place:
    return Place(base=None, kind="none", problems=found)


def _inside_a_run(facts: Facts) -> bool:
    return any(owner.is_run(part) for part in (facts.own or "").split("/"))


# The ways: each returns a prepared place, None where it does not fit, or raises _Unusable


class _Unusable(Exception):
    """A way that fits the facts and leads nowhere."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


_Way = Callable[[Facts], Place | None]


def _nested(facts: Facts) -> Place | None:
    """Stay inside the call of the outer run: its limits hold, and its end is our end too."""
    if facts.own_path is None or not probe.controls(facts.own_path):
        raise _Unusable(problems.INSIDE_A_RUN)
    # Without controllers for children a cgroup may hold processes and children at once.
    return Place(base=facts.own_path, kind="delegated", problems=(problems.INSIDE_A_RUN,))


def _given(path: str, facts: Facts) -> Place | None:
    """Use the cgroup that was named, or say why not."""
    try:
        with contextlib.closing(Cgroup.open(path)) as top:
            pids = [] if top.is_machine_root() else top.procs()
    except OSError as error:
        raise _Unusable(problems.named(path, error)) from error
    if not probe.controls(path):
        raise _Unusable(problems.named(path, f"user {os.geteuid()} may not write to it"))
    # Those in it may be moved only where we are one of them, or were until another divided it.
    if pids and not f"{facts.own_path}/".startswith(f"{top.path}/"):
        some = ", ".join(map(str, pids[:5]))
        raise _Unusable(problems.named(path, f"processes of others live right in it ({some})"))
    return _divided(top.path, "given")


def _delegated_by_systemd(facts: Facts) -> Place | None:
    """Work in the unit that systemd has delegated to us already."""
    if not facts.systemd or facts.mount is None or facts.own_path is None:
        return None
    unit = probe.delegated_above(facts.own_path, facts.mount.point)
    return _divided(unit, "delegated") if unit is not None and probe.controls(unit) else None


def _scope_of_systemd(facts: Facts) -> Place | None:
    """Ask systemd for a scope: on its machines nobody else may make cgroups at the top."""
    if not facts.systemd or facts.mount is None or facts.mount.read_only:
        return None
    user = facts.uid != 0
    try:
        systemd.start_scope(user=user)
    except systemd.ScopeRefused as error:
        raise _Unusable(problems.no_scope(error, user=user)) from error
    own_path = probe.probe().own_path
    if own_path is None:
        return None
    return _divided(own_path, "systemd-user" if user else "systemd-system")


def _root(facts: Facts) -> Place | None:
    """Work below the machine's own root."""
    mount = facts.mount
    if mount is None or not mount.true_root or not probe.controls(mount.point):
        return None
    with contextlib.closing(Cgroup.open(mount.point)) as top:
        top.enable(CONTROLLERS)
        with contextlib.closing(top.child(BASE, exist_ok=True)) as base:
            base.enable(CONTROLLERS)
            return Place(base=base.path, kind="root")


def _container(facts: Facts) -> Place | None:
    """Divide the root of our private cgroup namespace."""
    mount = facts.mount
    if mount is None or mount.true_root or mount.root != "/" or not probe.controls(mount.point):
        return None
    return _divided(mount.point, "container")


def _delegated(facts: Facts) -> Place | None:
    """Divide our own cgroup, which somebody has made ours."""
    path = facts.own_path
    if path is None:
        return None
    above, _, name = path.rpartition("/")
    if name == SUPERVISOR and probe.controls(above):  # another supervisor has divided it before
        path = above
    return _divided(path, "delegated") if probe.controls(path) else None


_WAYS: Final[tuple[_Way, ...]] = (
    _delegated_by_systemd,
    _scope_of_systemd,
    _root,
    _container,
    _delegated,
)


def _divided(path: str, kind: Kind) -> Place:
    """Return a subtree of ours as a base; for the life cycle alone where it cannot be emptied."""
    problem = divide(path, CONTROLLERS)
    return Place(base=path, kind=kind, problems=() if problem is None else (problem,))
