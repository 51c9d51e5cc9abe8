"""Where on this machine runs can be made, and what can be enforced there.

Theory of operation: `find` looks (`probe`, facts only), takes the first of `_WAYS` that fits the
facts, prepares a base there, and then proves it: a trial cgroup is made below the base, given
limits, and a process is put in. What the trial shows is what the Place promises; nothing is
concluded from versions or mere presence of files.

cgroup v2 has two rules that shape all this. A cgroup with controllers enabled for its children may
not hold processes itself, the machine's root excepted; so a subtree that was given to us is
divided: what lives in it moves to the leaf `agentcgroup.sup`, runs are made beside it. And who
moves a process needs write access to the common ancestor of both ends; so a user can work only
inside a subtree that is delegated and holds the process already.

Every step may be taken by several processes at once: directories that are there already are taken
as they are, and enabling what is enabled does nothing. One that tears a base down as another has
just found it leaves the other with ENOENT, or with limits that `Cgroup.set` reports as not applied:
both are loud, and finding again mends them.

Whatever cannot be had is told as a `Problem`, in words for the person at the machine.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal

from agentcgroup.cgroup import owner, probe, systemd
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

#: The controllers we have limits for, and harmless limits to try each with.
_TRIALS: Final = {
    "memory": Limits(
        memory_high=192 << 20, memory_max=256 << 20, memory_swap_max=0, memory_oom_group=True
    ),
    "cpu": Limits(cpu_weight=90, cpu_max=(90_000, 100_000)),
    "pids": Limits(pids_max=64),
    "io": Limits(),  # io.max needs a device to name
    "cpuset": Limits(),
}
_CONTROLLERS: Final = frozenset(_TRIALS)
#: Limits that some kernels lack although their controller works.
_OPTIONAL: Final = frozenset({"memory_swap_max", "memory_oom_group"})
#: What cgroup v1 calls them.
_V1_NAMES: Final = {"io": "blkio"}

_EVACUATIONS: Final = 5


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not enforced here.

    Attributes:
        what: what is not enforced.
        why: the reason, as a sentence.
        fix: what would change it, None when nothing here can.
        controllers: the controllers it is about; empty when it is about everything.
    """

    what: str
    why: str
    fix: str | None = None
    controllers: frozenset[str] = frozenset()

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
    """

    base: str | None
    kind: Kind
    controllers: frozenset[str] = frozenset()
    clone3: bool = False
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
    facts = probe.probe()
    if "/ray-node_" in (facts.own or ""):
        return _nothing(_RAY)
    given = root or os.environ.get(ROOT_VARIABLE)
    if _inside_a_run(facts):  # before all else: $AGENTCGROUP_ROOT may be the outer run's
        ways: tuple[_Way, ...] = (_nested,)
    elif given:
        ways = (functools.partial(_given, given),)
    else:
        ways = _WAYS
    return _first_that_works(ways)


def teardown(place: Place) -> None:
    """Undo what `find` prepared, as far as nobody else uses it. Never raises."""
    if place.base is None or place.kind in ("systemd-system", "systemd-user"):
        return  # a scope goes with its last process, as it is
    with contextlib.suppress(OSError):
        if place.kind == "root":
            os.rmdir(place.base)  # refused by the kernel while any run is inside
            return
        with contextlib.closing(Cgroup.open(place.base)) as base:
            if set(base.children()) == {SUPERVISOR}:
                base.disable(base.enabled())
                _reunite(base)


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
        raise _Unusable(_INSIDE_A_RUN)
    # Without controllers for children a cgroup may hold processes and children at once.
    return Place(base=facts.own_path, kind="delegated", problems=(_INSIDE_A_RUN,))


def _given(path: str, _facts: Facts) -> Place | None:
    """Use the cgroup that was named, or say why not."""
    try:
        with contextlib.closing(Cgroup.open(path)) as top:
            if not probe.controls(top.path):
                raise _Unusable(_not_writable(top.path))
            pids = top.procs()
            if pids and os.getpid() not in pids and not top.is_machine_root():
                left = ", ".join(map(str, pids[:5]))
                raise _Unusable(
                    Problem(
                        "all limits",
                        f"{path} was named as the place to work, but processes live right in it"
                        f" ({left}), so no controller can be enabled for its children.",
                        "name an empty cgroup, or one of its own that holds only this process.",
                    )
                )
            return _divided(top.path, "given")
    except OSError as error:
        raise _Unusable(
            Problem("all limits", f"{path} was named as the place to work: {error}.")
        ) from error


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
        raise _Unusable(
            Problem(
                "a subtree of our own",
                f"{error}.",
                "start the program with: systemd-run --scope -p Delegate=yes"
                + (" --user" if user else ""),
            )
        ) from error
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
        top.enable(_CONTROLLERS)
        with contextlib.closing(top.child(BASE, exist_ok=True)) as base:
            base.enable(_CONTROLLERS)
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


def _first_that_works(ways: tuple[_Way, ...]) -> Place:
    failed: tuple[Problem, ...] = ()
    for way in ways:
        # Looked at anew each time, since the way before may have moved us.
        facts = probe.probe()
        try:
            place = way(facts)
            if place is None:
                continue
            place = _proved(place, facts)
        except _Unusable as error:
            failed += (error.problem,)
        except OSError as error:
            failed += (Problem("all limits", f"no cgroup can be made and used: {error}."),)
        else:
            # What failed before is worth telling only where something is missing now.
            return replace(place, problems=place.problems and (*failed, *place.problems))
    return _nothing(*(failed or (_why_no_way(probe.probe()),)))


def _inside_a_run(facts: Facts) -> bool:
    return any(owner.is_run(part) for part in (facts.own or "").split("/"))


# Dividing a subtree, and putting it together again


def _divided(path: str, kind: Kind) -> Place:
    """Make a subtree of ours into a base: empty at its top, controllers enabled.

    Where it cannot be emptied it becomes a base for the life cycle alone.
    """
    with contextlib.closing(Cgroup.open(path)) as top:
        wanted = top.available() & _CONTROLLERS
        stuck = None
        if not wanted <= top.enabled() and not top.is_machine_root():
            stuck = _evacuate(top)
        if stuck is None:
            top.enable(wanted)
            return Place(base=path, kind=kind)
    problem = Problem(
        _named(wanted),
        f"{path} holds processes that cannot be moved out of the way ({stuck}), and the kernel"
        " enables no controller for the children of a cgroup that holds processes.",
        "start the program in a cgroup of its own.",
        wanted,
    )
    return Place(base=path, kind=kind, problems=(problem,))


def _evacuate(top: Cgroup) -> str | None:
    """Move all processes of `top` into its leaf; return why some remain, with none moved then."""
    if not top.procs():
        return None
    with contextlib.closing(top.child(SUPERVISOR, exist_ok=True)) as leaf:
        why = "new ones keep coming"
        for _ in range(_EVACUATIONS):  # a process may fork as it is moved
            pids = top.procs()
            if not pids:
                return None
            if 0 in pids:
                why = "one belongs to another pid namespace"
                break
            for pid in pids:
                try:
                    leaf.join(pid)
                except ProcessLookupError:
                    continue
                except OSError as error:
                    why = str(error)
    _reunite(top)
    return why


def _reunite(top: Cgroup) -> None:
    """Move the processes of the leaf back up and remove it; controllers must be off by then."""
    with contextlib.suppress(OSError):
        with contextlib.closing(Cgroup.open(f"{top.path}/{SUPERVISOR}")) as leaf:
            for pid in filter(None, leaf.procs()):
                with contextlib.suppress(ProcessLookupError):
                    top.join(pid)
        os.rmdir(f"{top.path}/{SUPERVISOR}")


# The proof


def _proved(place: Place, facts: Facts) -> Place:
    """Return the place with what a real trial below its base has shown.

    Raises:
        OSError: no cgroup can be made there, or no process be put into it.
    """
    assert place.base is not None
    with contextlib.closing(Cgroup.open(place.base)) as base:
        on = base.enabled() & _CONTROLLERS
        refusals: dict[str, str] = {}
        trial = base.child(f"agentcgroup.trial-{os.getpid()}-{secrets.token_hex(4)}")
        try:
            lacking = frozenset().union(*(_tried(trial, one, refusals) for one in on))
            _hold_a_process(trial)
        finally:
            trial.remove()
            trial.close()
        told = frozenset().union(*(problem.controllers for problem in place.problems))
        if place.problems and not told:  # about everything
            told = _CONTROLLERS
        problems = (
            *place.problems,
            *_missing(base, _CONTROLLERS - on - told, facts),
            *(_refused(base, one, why) for one, why in sorted(refusals.items())),
            *(_lacking(key) for key in sorted(lacking)),
        )
    return replace(place, controllers=on - frozenset(refusals), problems=problems)


def _tried(trial: Cgroup, controller: str, refusals: dict[str, str]) -> frozenset[str]:
    """Write limits of one controller; return optional ones this kernel lacks, note a refusal."""
    try:
        lacking = trial.set(_TRIALS[controller])
    except OSError as error:
        refusals[controller] = str(error)
        return frozenset()
    if not lacking <= _OPTIONAL:
        refusals[controller] = f"no file for {', '.join(sorted(lacking))}"
    return lacking & _OPTIONAL


def _hold_a_process(trial: Cgroup) -> None:
    """Put a waiting process into the trial cgroup and see it there."""
    command = ["/bin/sh", "-c", "read _"]
    if not os.path.exists(command[0]):
        command = [sys.executable, "-ISc", "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        try:
            trial.join(process.pid)
            if not trial.populated():
                raise ChildProcessError(f"a process moved into {trial.path} does not show there")
        finally:
            process.kill()


# The words


_INSIDE_A_RUN: Final = Problem(
    "limits of this run",
    "this process runs inside a call of another agentcgroup run; the limits of that call hold for"
    " all of it, and it is not left.",
    "set the limits in the configuration of the outer run.",
)
_RAY: Final = Problem(
    "all limits",
    "this process runs inside the cgroups of a Ray node with resource isolation, where Ray does"
    " not expect cgroups of others.",
    "start Ray without resource isolation, or register before Ray starts.",
)


def _nothing(*problems: Problem) -> Place:
    return Place(base=None, kind="none", problems=problems)


def _named(controllers: frozenset[str]) -> str:
    return "limits of " + ", ".join(sorted(controllers))


def _not_writable(path: str) -> Problem:
    return Problem(
        "all limits",
        f"user {os.geteuid()} may not make cgroups in {path}.",
        "as root, make a cgroup for this user (mkdir, then chown the directory, its cgroup.procs"
        " and its cgroup.subtree_control) and start the program in it; under systemd:"
        " systemd-run --user --scope -p Delegate=yes PROGRAM.",
    )


def _why_no_way(facts: Facts) -> Problem:
    """Say why no way fits."""
    mount = facts.mount
    if mount is None:
        only = "only cgroup v1 is mounted" if facts.v1_controllers else "cgroup v2 is not mounted"
        return Problem(
            "all limits",
            f"{only} here.",
            "boot with systemd.unified_cgroup_hierarchy=1, or as root:"
            " mount -t cgroup2 none /sys/fs/cgroup.",
        )
    if mount.read_only:
        return Problem(
            "all limits",
            f"{mount.point} is mounted read-only, as containers have it by default.",
            "docker run --security-opt writable-cgroups=true (Docker 28),"
            " podman run --security-opt unmask=/sys/fs/cgroup,"
            " or cgroup_writable = true for the runtime in containerd's configuration (2.1).",
        )
    if facts.own_path is None:
        return Problem(
            "all limits",
            f"this process is in cgroup {facts.own}, which {mount.point} does not show.",
            "give the container a cgroup namespace of its own (--cgroupns=private).",
        )
    return _not_writable(facts.own_path)


def _missing(base: Cgroup, controllers: frozenset[str], facts: Facts) -> list[Problem]:
    """Say why controllers are not enabled in the base, one problem for each reason."""
    in_v1 = frozenset(one for one in controllers if _V1_NAMES.get(one, one) in facts.v1_controllers)
    offered = controllers & base.available()
    withheld = controllers - in_v1 - offered
    problems = [_refused(base, one, base.why_not(one)) for one in sorted(offered)]
    if in_v1:
        why = "the controllers are bound to cgroup v1 on this machine."
        fix = "boot with cgroup_no_v1=all systemd.unified_cgroup_hierarchy=1."
        problems.append(Problem(_named(in_v1), why, fix, in_v1))
    if withheld:
        above = os.path.dirname(base.path)
        why = f"the cgroup above {base.path} does not pass them on, or the kernel lacks them."
        wish = " ".join(f"+{one}" for one in sorted(withheld))
        fix = f"as root: echo '{wish}' > {above}/cgroup.subtree_control"
        if facts.systemd:
            fix += f"; under systemd: Delegate={' '.join(sorted(withheld))} in the unit."
        problems.append(Problem(_named(withheld), why, fix, withheld))
    return problems


def _refused(base: Cgroup, controller: str, why: str) -> Problem:
    one = frozenset({controller})
    return Problem(
        _named(one), f"the kernel refused the controller in {base.path}: {why}.", None, one
    )


def _lacking(key: str) -> Problem:
    if key == "memory_swap_max":
        return Problem(
            key,
            "this kernel does not account swap, so a call may pass memory_max by swapping.",
            "boot with swapaccount=1, or turn swap off.",
        )
    return Problem(key, "this kernel does not have it.", "use Linux 4.19 or newer.")
