"""Trying a place: make a cgroup there, write limits, and put a process in."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import subprocess
from dataclasses import dataclass
from typing import Any, Final

from agentcgroup.cgroup.cgroup import Cgroup
from agentcgroup.cgroup.limits import LIMITS, Limits
from agentcgroup.interpreter import python
from agentcgroup.place import problems
from agentcgroup.place.probe import HostFacts
from agentcgroup.place.problems import Problem
from agentcgroup.threads import standard_subprocess, start_thread

try:
    from agentcgroup import _native
except ImportError:
    _native = None  # type: ignore[assignment]  # built where there is a compiler

__all__ = ["TrialResult", "of_threads", "run"]

#: Limits that some kernels lack although their controller works.
_OPTIONAL: Final = frozenset(key for key, row in LIMITS.items() if row.optional)
#: The names of cgroup v1, where they differ.
_V1_NAMES: Final = {"io": "blkio"}


@dataclass(frozen=True, slots=True)
class TrialResult:
    """The result of a trial.

    Attributes:
        controllers: the controllers whose limits the kernel took.
        problems: why the others are missing, and single limits that are missing.
    """

    controllers: frozenset[str]
    problems: tuple[Problem, ...]


def run(path: str, host: HostFacts, controllers: frozenset[str]) -> TrialResult:
    """Try which of some controllers work below a base.

    Raises:
        OSError: no cgroup can be made there, or no process can be put into it.
    """
    with contextlib.closing(Cgroup.open(path)) as base:
        on = base.enabled() & controllers
        trial = base.child(f"agentcgroup.trial-{os.getpid()}-{secrets.token_hex(4)}")
        try:
            found = [problem for one in sorted(on) for problem in _try_limits(trial, one)]
            _put_a_process_in(trial)
        finally:
            trial.remove()
            trial.close()
        found += _why_missing(base, controllers - on, host)
    return TrialResult(on.difference(*(problem.controllers for problem in found)), tuple(found))


def of_threads() -> Problem | None:
    """Return why no thread can be started here, None where one can."""
    try:
        start_thread(_nothing, "trial").join()
    except RuntimeError as error:
        clone3_refused = _native is not None and _native.spawn_mode()[1] == errno.EPERM
        return problems.no_threads(error, clone3_refused=clone3_refused)
    return None


def _nothing() -> None:
    pass


def _try_limits(trial: Cgroup, controller: str) -> list[Problem]:
    try:
        unmet = trial.set(_harmless(controller))
    except OSError as error:
        return [problems.refused(trial.path, controller, str(error))]
    for refused in unmet.values():
        if refused is not None:
            return [problems.refused(trial.path, controller, str(refused))]
    missing = unmet.keys()
    if missing <= _OPTIONAL:
        return [problems.lacking(key) for key in sorted(missing)]
    return [problems.refused(trial.path, controller, f"no file for {', '.join(sorted(missing))}")]


def _harmless(controller: str) -> Limits:
    """Return the limits to try a controller with, those that its rows give."""
    values: dict[str, Any] = {
        key: row.trial for key, row in LIMITS.items() if row.controller == controller
    }
    return Limits(**values)


def _put_a_process_in(trial: Cgroup) -> None:
    """Put a process into the trial cgroup: born there where the kernel can, else moved there."""
    if _native is not None and _native.spawn_mode()[0] == "clone3":
        _spawn_in(trial)
    else:
        _move_in(trial)


def _spawn_in(trial: Cgroup) -> None:
    """Start a process in the trial cgroup; it fails there, as its program does not exist."""
    nothing: tuple[int, ...] = (0, 0, 0, 0, 0, 0)
    with contextlib.suppress(FileNotFoundError):
        _native.posix_spawn(trial.fd, "", [b""], [b""], None, [], *nothing)


def _move_in(trial: Cgroup) -> None:
    command = ["/bin/sh", "-c", "read _"]
    if not os.path.exists(command[0]):
        command = [python(), "-ISc", "input()"]
    with standard_subprocess().Popen(command, stdin=subprocess.PIPE) as process:
        try:
            trial.join(process.pid)
            if not trial.populated():
                raise ChildProcessError(f"a process moved into {trial.path} does not show there")
        finally:
            process.kill()


def _why_missing(base: Cgroup, controllers: frozenset[str], host: HostFacts) -> list[Problem]:
    """Return why controllers are not enabled in the base, one problem for each reason."""
    taken = {one for one in controllers if _V1_NAMES.get(one, one) in host.v1_controllers}
    offered = controllers & base.available()
    withheld = controllers - taken - offered
    found = [problems.refused(base.path, one, base.why_not(one)) for one in sorted(offered)]
    if taken:
        found.append(problems.in_v1(taken))
    if withheld:
        found.append(problems.withheld(base.path, withheld, host))
    return found
