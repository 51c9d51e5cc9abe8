"""The problems of a place: each says what is not enforced, why, and how to fix it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from agentcgroup.cgroup.limits import LIMITS
from agentcgroup.place.probe import HostFacts

__all__ = ["Problem"]


@dataclass(frozen=True, slots=True)
class Problem:
    """Limits that are not enforced here.

    Attributes:
        what: the limits.
        why: the reason, as a sentence.
        fix: how to have them enforced, None when nothing on this machine can.
        controllers: the controllers of the limits; empty when no limit is enforced.
    """

    what: str
    why: str
    fix: str | None = None
    controllers: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"{self.what}: {self.why}" + (f" Fix: {self.fix}" if self.fix else "")


INSIDE_A_RUN: Final = Problem(
    "limits of this run",
    "this process runs inside a call of another agentcgroup run; the limits of that call bound this"
    " run, which stays inside.",
    "set the limits in the configuration of the outer run.",
)
NOT_LINUX: Final = Problem(
    "all limits",
    "this system has no cgroups.",
    "run the agent on Linux, or in a Linux container.",
)
INSIDE_RAY: Final = Problem(
    "all limits",
    "this process runs inside the cgroups of a Ray node with resource isolation, and Ray allows no"
    " cgroups of other programs there.",
    "start Ray without resource isolation.",
)


def of(controllers: Iterable[str], why: str, fix: str | None = None) -> Problem:
    """Return a problem of some controllers."""
    names = frozenset(controllers)
    return Problem("limits of " + ", ".join(sorted(names)), why, fix, names)


def failed(error: OSError) -> Problem:
    """Return the problem of a place that fits the host and does not work."""
    return Problem("all limits", f"no cgroup can be made and used: {error}.")


def no_threads(error: Exception, *, clone3_refused: bool) -> Problem:
    """Return the problem where no thread can be started."""
    why, fix = f"no thread can be started here ({error})", "raise ulimit -u, or pids.max."
    if clone3_refused:
        why += ": a seccomp profile refuses clone3 with EPERM, where glibc expects ENOSYS"
        fix = "a seccomp profile that allows clone3 (Docker 20.10.10 or newer has one)."
    return Problem("timeouts, sampled limits, workers and the monitor", f"{why}.", fix)


def named(path: str, why: object) -> Problem:
    """Return the problem of a place that the user has named."""
    return Problem(
        "all limits",
        f"{path} was named as the place to work: {why}.",
        "name an empty cgroup that this user may write to, or none.",
    )


def occupied(path: str, controllers: Iterable[str], why: str) -> Problem:
    """Return the problem of a cgroup that cannot be emptied."""
    return of(
        controllers,
        f"{path} holds processes that cannot be moved to another cgroup ({why}), and the kernel"
        " enables no controller for the children of a cgroup that holds processes.",
        "start the program in a cgroup of its own.",
    )


def no_scope(error: Exception, *, user: bool) -> Problem:
    """Return the problem where systemd starts no scope."""
    return Problem(
        "a subtree of our own",
        f"{error}.",
        "start the program with: systemd-run --scope -p Delegate=yes"
        f"{' --user' if user else ''} PROGRAM.",
    )


def not_writable(path: str) -> Problem:
    """Return the problem where the user has no delegated subtree."""
    return Problem(
        "all limits",
        f"user {os.geteuid()} may not make cgroups in {path}.",
        "as root, make a cgroup for this user (mkdir, then chown the directory, its cgroup.procs"
        " and its cgroup.subtree_control) and start the program in it; under systemd:"
        " systemd-run --user --scope -p Delegate=yes PROGRAM.",
    )


def no_way(host: HostFacts) -> Problem:
    """Return the problem where no way to a place fits the host."""
    mount = host.mount
    if mount is None:
        only = "only cgroup v1 is mounted" if host.v1_controllers else "cgroup v2 is not mounted"
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
    if host.own_path is None:
        return Problem(
            "all limits",
            f"this process is in cgroup {host.own}, which {mount.point} does not show.",
            "give the container a cgroup namespace of its own (--cgroupns=private).",
        )
    return not_writable(host.own_path)


def in_v1(controllers: Iterable[str]) -> Problem:
    """Return the problem of controllers that are bound to cgroup v1."""
    return of(
        controllers,
        "the controllers are bound to cgroup v1 on this machine.",
        "boot with cgroup_no_v1=all systemd.unified_cgroup_hierarchy=1.",
    )


def withheld(base: str, controllers: Iterable[str], host: HostFacts) -> Problem:
    """Return the problem of controllers that the cgroups above do not enable for the base."""
    names = sorted(controllers)
    if host.systemd:
        fix = "as root: systemctl edit " + ("user@.service" if host.uid else "UNIT")
        fix += ", add Delegate=cpu cpuset io memory pids below [Service], and start it anew."
    else:
        wish = " ".join(f"+{name}" for name in names)
        fix = f"as root: echo '{wish}' > {os.path.dirname(base)}/cgroup.subtree_control"
    return of(
        names, f"the cgroup above {base} does not pass them on, or the kernel lacks them.", fix
    )


def refused(base: str, controller: str, why: str) -> Problem:
    """Return the problem of a controller that the kernel offers and refuses to turn on."""
    return of([controller], f"the kernel refused the controller in {base}: {why}.")


def lacking(key: str) -> Problem:
    """Return the problem of a limit whose file this kernel lacks though its controller works."""
    row = LIMITS[key]
    return Problem(key, row.absent, row.fix)
