"""The cgroups of one run: where they are made, and what happens where they cannot be made."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import os
from collections.abc import Callable, Mapping
from typing import Final

from agentcgroup import scope
from agentcgroup.cgroup import Cgroup, Limits, controller_of
from agentcgroup.cgroup.limits import LIMITS
from agentcgroup.config.policy import Resolver
from agentcgroup.config.tables import Config
from agentcgroup.containment.leftovers import with_children
from agentcgroup.containment.tree import Branch, TreeOptions
from agentcgroup.errors import CgroupUnavailable
from agentcgroup.place.locate import CgroupLocator
from agentcgroup.place.owner import run_name
from agentcgroup.place.place import Place, find, teardown
from agentcgroup.threads import Lock

__all__ = ["RunCgroups"]

logger = logging.getLogger("agentcgroup")

#: Times that the base of the run is looked for again when another program has removed it.
_TRIES: Final = 5


class RunCgroups:
    """Makes the run's cgroup at the first need, and removes it at the end.

    Attributes:
        place: where cgroups are made, and what can be enforced there.
        made: the run's branch, None where it was not made.
    """

    def __init__(
        self,
        config: Config,
        resolver: Resolver,
        warn: Callable[[str, str | None], None],
        on_made: Callable[[Cgroup], None],
    ) -> None:
        """Find where cgroups can be made.

        Args:
            config: the configuration.
            resolver: its policies.
            warn: logs a warning once for what it is about, or once for its text.
            on_made: called with each cgroup for a call, before a process is in it.

        Raises:
            CgroupUnavailable: mode is ``enforce`` and something cannot be enforced here.
        """
        self._config = config
        self._resolver = resolver
        self._warn = warn
        self._on_made = on_made
        self.place = (
            Place(base=None, kind="none")
            if config.mode == "off"
            else find(config.cgroup_root, resolver.controllers())
        )
        self._check(self.place)
        self.start_over()

    def start_over(self) -> None:
        """Forget, in a forked child, the cgroups of the parent's run."""
        self._lock = Lock()
        self.made: Branch | None = None
        self._closed = False

    @property
    def limiting(self) -> bool:
        """Whether limits are enforced at all: not in mode ``observe``, nor when off."""
        return self._config.mode in ("auto", "enforce")

    def branch(self) -> Branch | None:
        """Return the run's branch, made at its first use; None where no cgroup can be made.

        Raises:
            OSError: the cgroup cannot be made.
        """
        if self.made is None and self.place.base is not None:
            with self._lock:
                if self.made is None and not self._closed:
                    self.made = self._make_run()
        return self.made

    def agent_branch(self, above: Branch, framework: str, agent: str | None) -> Branch:
        """Return the branch of an agent below the run or below a call.

        Raises:
            OSError: the cgroup cannot be made.
        """

        def limits() -> Limits:
            asked = self._resolver.agent(framework, agent)
            named = scope.agent.get()
            if named is not None and named.name == agent:
                return self._resolver.override_agent(asked, **named.limits)
            return asked

        return above.agent(framework, agent, limits)

    def background_fd(self) -> int | None:
        """Return the directory fd of the cgroup for processes that belong to no running call."""
        try:
            run = self.branch()
            return None if run is None else run.background().fd
        except OSError as error:
            self._leave_uncontained(error)
            return None

    def agent_background_fd(self, framework: str, agent: str | None) -> int | None:
        """Return the directory fd of the cgroup for what outlives the calls of an agent."""
        try:
            background = self.agent_background(framework, agent)
        except OSError as error:
            self._leave_uncontained(error)
            return None
        return None if background is None else background.fd

    def agent_background(self, framework: str, agent: str | None) -> Cgroup | None:
        """Return the cgroup for what outlives the calls of an agent; None without cgroups.

        Raises:
            OSError: the cgroup cannot be made.
        """
        run = self.branch()
        if run is None:
            return None
        branch = self.agent_branch(run, framework, agent)
        try:
            return branch.background()
        finally:
            branch.leave()  # a branch with a background cgroup stays until the run ends

    def holding_cgroup(self) -> str | None:
        """Return the cgroup that holds processes of a call until the call has its own."""
        try:
            run = self.branch()
            return None if run is None else run.background().path
        except OSError as error:
            logger.warning("agentcgroup: no cgroup for processes born outside: %s", error)
            return None

    def uncontained(self, error: OSError) -> None:
        """Refuse a call that can have no cgroup, or report that it runs uncontained.

        Raises:
            CgroupUnavailable: mode is ``enforce``, or on_uncontained is ``refuse``.
        """
        enforcing = self._config.mode == "enforce"
        if enforcing or (self._config.on_uncontained == "refuse" and self.limiting):
            fix = "see `agentcgroup doctor`"
            if not enforcing:
                fix += ', or set on_uncontained = "run" to run it without limits'
            raise CgroupUnavailable(
                f"A call cannot be given its cgroup: {error}.", fix=fix
            ) from error
        logger.error("agentcgroup: a call runs UNCONTAINED", exc_info=error)

    def _leave_uncontained(self, error: OSError) -> None:
        """Report that a process of no running call has no cgroup.

        Raises:
            CgroupUnavailable: mode is ``enforce``.
        """
        if self._config.mode == "enforce":
            self.uncontained(error)
        logger.error("agentcgroup: a process of no call runs UNCONTAINED", exc_info=error)

    def forget_removed(self) -> None:
        """Forget cgroups of the run that another program has removed."""
        with self._lock:
            run = self.made
            if run is None:
                return
            if run.cgroup.exists():
                run.forget_removed()
            else:
                logger.warning("agentcgroup: %s was removed and is made anew", run.cgroup.path)
                self.made = None

    def close(self, helpers: set[int]) -> None:
        """Kill every process of the run and remove its cgroups; none is made any more.

        `helpers`, processes of pools that the app goes on using, return to the app's cgroup.
        """
        with self._lock:
            self._closed = True
            run, self.made = self.made, None
        if run is not None:
            try:
                _return_to_app(run.cgroup, helpers)
                run.remove()
            except OSError as error:
                logger.warning("agentcgroup: cgroups of this run are left over: %s", error)
        teardown(self.place)

    def refuse_new(self) -> None:
        """Make no run's cgroup any more; one that is there stays until `close`."""
        with self._lock:
            self._closed = True

    def _make_run(self) -> Branch | None:
        for _ in range(_TRIES):
            try:
                cgroup = self._make_run_cgroup()
                break
            except FileNotFoundError:  # another program removed the base, the last one to use it
                self._find_again()
        else:
            cgroup = self._make_run_cgroup()
        if cgroup is None:
            return None
        options = TreeOptions(
            self.place.controllers, self._unmet, on_made=self._on_made, limiting=self.limiting
        )
        options.limit(cgroup, self._resolver.run())
        return Branch(cgroup, options)

    def _make_run_cgroup(self) -> Cgroup | None:
        if self.place.base is None:
            return None
        with contextlib.closing(Cgroup.open(self.place.base)) as base:
            return base.child(run_name(), exist_ok=True)

    def _find_again(self) -> None:
        # The child that `find` starts to try the place must not belong to the call that waits here.
        needed = self._resolver.controllers()
        self.place = contextvars.Context().run(find, self._config.cgroup_root, needed)
        self._check(self.place)

    def _check(self, place: Place) -> None:
        """Report once what of the configuration is not enforced here.

        Raises:
            CgroupUnavailable: mode is ``enforce``, and something is not.
        """
        needed = self._resolver.controllers()
        problems = [
            problem
            for problem in place.problems
            if not problem.controllers or problem.controllers & needed
        ]
        if not problems:
            return
        told = "; ".join(f"{problem.what}: {problem.why.rstrip('.')}" for problem in problems)
        if self._config.mode == "enforce":
            fixes = [problem.fix for problem in problems if problem.fix]
            raise CgroupUnavailable(
                f'mode = "enforce", but not everything can be enforced here: {told}.',
                fix="; ".join(fixes) or None,
            )
        self._warn(f"not enforced here: {told}. `agentcgroup doctor` says more.", None)

    def _unmet(self, path: str, unmet: Mapping[str, OSError | None]) -> None:
        """Report limits that do not hold; `_check` reports those of a missing controller.

        Raises:
            OSError: mode is ``enforce``.
        """
        there = self.place.controllers
        keys = sorted(key for key in unmet if key not in LIMITS or controller_of(key) in there)
        if not keys:
            return
        if self._config.mode == "enforce":
            raise OSError(f"{path} does not take {', '.join(keys)}")
        for key in keys:
            refused = unmet[key]
            told = (
                f"the kernel refuses {key}: {refused.strerror}"
                if refused
                else f"this kernel has no {key}"
            )
            self._warn(f"{told}: not enforced", told)


def _return_to_app(run: Cgroup, helpers: set[int]) -> None:
    """Move those of `helpers` that are in the run, with their children, to the app's cgroup."""
    if not helpers:
        return
    own = CgroupLocator().of(os.getpid())
    if not own:
        return
    with contextlib.closing(Cgroup.open(own)) as app:
        for pid in with_children(helpers, run.all_procs()):
            with contextlib.suppress(OSError):  # one that cannot be moved ends with the run
                app.join(pid)
