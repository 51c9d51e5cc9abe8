"""Where on this machine runs can be made, and what can be enforced there.

Theory of operation: `find` probes the host (`probe`), takes the first of `_WAYS` that fits it,
prepares a base there, and then tries the base (`trial`): it makes a cgroup below the base, writes
limits, and puts a process in. A `Place` has what the trial showed; nothing is concluded from
versions or from files that exist.

No way leaves the cgroup that this process was started in, since the limits of that cgroup and of
those above it would no longer hold (`around`). Where the process is not in the machine's root, its
own cgroup is divided (`delegation`), or a delegated one above it that has the same limits. Only
systemd may move the process, to a scope with the same limits.

Several processes may take every step at once: a directory that exists is used as it is, and
enabling an enabled controller does nothing. Where one process tears a base down that another has
just found, the other gets ENOENT, or limits that `Cgroup.set` reports as missing: both are
reported, and a second `find` repairs them.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal

from agentcgroup.cgroup.cgroup import Cgroup
from agentcgroup.cgroup.limits import CONTROLLERS
from agentcgroup.place import owner, probe, problems, systemd, trial
from agentcgroup.place.around import limits_below
from agentcgroup.place.delegation import SUPERVISOR, divide, reunite
from agentcgroup.place.probe import HostFacts
from agentcgroup.place.problems import Problem

__all__ = ["Place", "bases", "find", "inside_a_run", "teardown"]

Kind = Literal["root", "delegated", "systemd-system", "systemd-user", "container", "given", "none"]

#: The directory under the machine's root in which all runs are made.
BASE: Final = "agentcgroup"
#: The environment variable that names the base, instead of the one that is found.
ROOT_VARIABLE: Final = "AGENTCGROUP_ROOT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The cgroup below which runs are made, and what can be enforced there.

    Attributes:
        base: path of that cgroup; None when there is none.
        kind: how the base was found.
        controllers: the controllers that work for the children of `base`, as the trial showed.
        problems: the limits that are not enforced, with the reasons.
    """

    base: str | None
    kind: Kind
    controllers: frozenset[str] = frozenset()
    problems: tuple[Problem, ...] = ()


def find(root: str | None = None, controllers: Iterable[str] = ()) -> Place:
    """Find, prepare and prove the place for the runs of this process.

    May ask systemd for a scope. In a subtree that belongs to this process, `find` moves this
    process and the others there into a leaf. Takes about 20 ms, more where systemd is asked.

    Args:
        root: the cgroup to work below; else $AGENTCGROUP_ROOT; else the best one on this machine.
        controllers: controllers to enable and try beside those of the limits with a row.

    Returns:
        A place; one of kind "none" where no cgroup can be made. `find` raises nothing for what the
        machine lacks: that is in `Place.problems`.
    """
    if sys.platform != "linux":
        return _nothing(problems.NOT_LINUX)
    place, problem = _find(root, controllers), trial.of_threads()
    return place if problem is None else replace(place, problems=(*place.problems, problem))


def _find(root: str | None, controllers: Iterable[str]) -> Place:
    host = probe.probe()
    if "/ray-node_" in (host.own or ""):
        return _nothing(problems.INSIDE_RAY)
    given = root or os.environ.get(ROOT_VARIABLE)
    wanted = frozenset(CONTROLLERS).union(controllers)
    if inside_a_run(host.own):  # before all else: $AGENTCGROUP_ROOT may be the outer run's
        return _first_that_works((_nested,), host, wanted)
    if given:
        return _first_that_works((functools.partial(_given, given),), host, wanted)
    return _first_that_works(_WAYS, host, wanted)


def inside_a_run(own: str | None = None) -> bool:
    """Return whether a cgroup, by default that of this process, is part of a run."""
    if own is None and sys.platform == "linux":
        own = probe.own_cgroup()
    return any(owner.is_run(part) for part in (own or "").split("/"))


def teardown(place: Place) -> None:
    """Undo what `find` prepared, where no other process uses it. Never raises."""
    if place.base is None or place.kind in ("systemd-system", "systemd-user"):
        return  # systemd removes a scope with its last process
    with contextlib.suppress(OSError):
        if place.kind == "root":
            os.rmdir(place.base)  # refused by the kernel while any run is inside
        else:
            reunite(place.base)


def bases(place: Place) -> list[str]:
    """Return the bases of the same kind as that of `place`, which is one of them.

    Under systemd every run has a scope of its own, which outlives the run while processes are left.
    """
    if place.base is None:
        return []
    if place.kind not in ("systemd-system", "systemd-user"):
        return [place.base]
    return sorted(glob.glob(f"{glob.escape(os.path.dirname(place.base))}/{systemd.NAME}-*.scope"))


def _first_that_works(ways: tuple[_Way, ...], host: HostFacts, wanted: frozenset[str]) -> Place:
    failed: tuple[Problem, ...] = ()
    for way in ways:
        try:
            place = way(host, wanted)
            if place is not None:
                place = _proved(place, host, wanted)
                # The ways that failed before are of interest only where something is missing.
                return replace(place, problems=place.problems and (*failed, *place.problems))
        except _Unusable as error:
            failed += (error.problem,)
        except OSError as error:
            failed += (problems.failed(error),)
        else:
            continue
        host = probe.probe()  # the way that failed may have moved this process
    return _nothing(*(failed or (problems.no_way(host),)))


def _proved(place: Place, host: HostFacts, wanted: frozenset[str]) -> Place:
    """Return the place with the result of a trial below its base."""
    assert place.base is not None
    result = trial.run(place.base, host, wanted)
    # A problem that the way found explains more than the trial's.
    found = place.problems or result.problems
    return replace(place, controllers=result.controllers, problems=found)


def _nothing(*found: Problem) -> Place:
    return Place(base=None, kind="none", problems=found)


# The ways: each returns a prepared place, None where it does not fit, or raises _Unusable


class _Unusable(Exception):
    """Raised by a way that fits the host and fails."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


_Way = Callable[[HostFacts, frozenset[str]], Place | None]


def _nested(host: HostFacts, _: frozenset[str]) -> Place | None:
    """Stay inside the call of the outer run: its limits bound this run, and its end ends it."""
    if host.own_path is None or not probe.controls(host.own_path):
        raise _Unusable(problems.INSIDE_A_RUN)
    # Without controllers for children a cgroup may hold processes and children at once.
    return Place(base=host.own_path, kind="delegated", problems=(problems.INSIDE_A_RUN,))


def _given(path: str, host: HostFacts, wanted: frozenset[str]) -> Place | None:
    """Use the cgroup that the user named.

    Raises:
        _Unusable: it cannot be used.
    """
    try:
        with contextlib.closing(Cgroup.open(path)) as top:
            pids = [] if top.is_machine_root() else top.procs()
    except OSError as error:
        raise _Unusable(problems.named(path, error)) from error
    if not probe.controls(path):
        raise _Unusable(problems.named(path, f"user {os.geteuid()} may not write to it"))
    # Its processes may be moved only where this process is one of them, or was one before another
    # supervisor divided the cgroup.
    if pids and not f"{host.own_path}/".startswith(f"{top.path}/"):
        some = ", ".join(map(str, pids[:5]))
        raise _Unusable(problems.named(path, f"processes of others live right in it ({some})"))
    return _divided(top.path, "given", wanted)


def _delegated_by_systemd(host: HostFacts, wanted: frozenset[str]) -> Place | None:
    """Work in a unit that systemd has delegated to this process."""
    if not host.systemd or host.mount is None or host.own_path is None:
        return None
    unit = probe.delegated_above(host.own_path, host.mount.point)
    if unit is None or not probe.controls(unit):
        return None
    own = _own(host.own_path)
    return _divided(own if limits_below(unit, own) else unit, "delegated", wanted)


def _scope_of_systemd(host: HostFacts, wanted: frozenset[str]) -> Place | None:
    """Ask systemd for a scope: under systemd no other program may make cgroups at the top."""
    if not host.systemd or host.mount is None or host.mount.read_only:
        return None
    user = host.uid != 0
    within, limits = None, {}
    if host.own is not None and host.own_path is not None:
        within = systemd.slice_of(host.own, user=user)
        # A user's session is in no slice of the user's manager, but in one that holds both.
        kept = within or systemd.slice_of(host.own, user=False) or "/"
        limits = limits_below(host.mount.locate(kept) or host.mount.point, host.own_path)
    try:
        systemd.start_scope(user=user, within=within, limits=limits)
    except systemd.ScopeRefused as error:
        raise _Unusable(problems.no_scope(error, user=user)) from error
    own_path = probe.probe().own_path
    if own_path is None:
        return None
    return _divided(own_path, "systemd-user" if user else "systemd-system", wanted)


def _root(host: HostFacts, wanted: frozenset[str]) -> Place | None:
    """Work below the root of the machine's hierarchy, which this process is in."""
    mount = host.mount
    if mount is None or not mount.true_root or not probe.controls(mount.point):
        return None
    if host.own_path != mount.point:
        return None
    with contextlib.closing(Cgroup.open(mount.point)) as top:
        top.enable(wanted)
        with contextlib.closing(top.child(BASE, exist_ok=True)) as base:
            base.enable(wanted)
            return Place(base=base.path, kind="root")


def _container(host: HostFacts, wanted: frozenset[str]) -> Place | None:
    """Divide the root of a private cgroup namespace."""
    mount = host.mount
    if mount is None or mount.true_root or mount.root != "/" or not probe.controls(mount.point):
        return None
    return _divided(mount.point, "container", wanted)


def _delegated(host: HostFacts, wanted: frozenset[str]) -> Place | None:
    """Divide the cgroup of this process: delegated by hand or another manager, or root's to use."""
    if host.own_path is None:
        return None
    path = _own(host.own_path)
    return _divided(path, "delegated", wanted) if probe.controls(path) else None


def _own(path: str) -> str:
    """Return a process's own cgroup, given the path where it is now: its leaf if it is divided."""
    above, _, name = path.rpartition("/")
    return above if name == SUPERVISOR and probe.controls(above) else path


_WAYS: Final[tuple[_Way, ...]] = (
    _delegated_by_systemd,
    _scope_of_systemd,
    _root,
    _container,
    _delegated,
)


def _divided(path: str, kind: Kind, wanted: frozenset[str]) -> Place:
    """Return a delegated subtree as a base; without controllers where it cannot be emptied."""
    problem = divide(path, wanted)
    return Place(base=path, kind=kind, problems=() if problem is None else (problem,))
