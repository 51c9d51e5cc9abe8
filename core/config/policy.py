"""Policies: the limits of one call, one agent and the run, and the line that set each of them.

A policy is put together from layers: the built-in defaults, the table of the file, the rules that
match, in their order, and the limits given in code (see `layers`).
"""

from __future__ import annotations

import fnmatch
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from agentcgroup.cgroup.limits import LIMITS, Limits, controller_of
from agentcgroup.config.layers import (
    CALL_KEYS,
    DEFAULT,
    Setting,
    Values,
    defaults,
    fit,
    is_unified,
    limits_of,
    refuse_to_hang,
    resolved,
    unset,
    values_of,
    written,
)
from agentcgroup.config.limit_tables import Limiting, LimitTable, Rule
from agentcgroup.config.problems import validate
from agentcgroup.config.tables import Config
from agentcgroup.config.toml import KeyPath, Source
from agentcgroup.config.values import Background, Isolation, OnUnshippable, Priority
from agentcgroup.errors import CgroupUnavailable

__all__ = ["Policy", "Resolver", "Setting"]

logger = logging.getLogger("agentcgroup")

#: Names come from models, so neither their number nor their length may fill the memory.
_REMEMBERED = 4096
_LONGEST_NAME = 256


@dataclass(frozen=True, slots=True)
class Policy:
    """The limits and choices of one call.

    Attributes:
        limits: the limits of its cgroup.
        timeout: seconds that it may take, None for no limit.
        background: whether processes that outlive the call are killed or kept; ``auto`` keeps
            maintenance for a time.
        leftover_grace: seconds that they have to end after SIGTERM, before SIGKILL.
        isolation: where the tool's own code runs; ``auto`` is inline.
        reuse: calls of the same tool that one worker may serve.
        on_unshippable: whether a call whose tool no worker can run fails or runs inline.
        priority: its priority in words; `limits` has it as cpu_weight.
        isolation_source: the line that set `isolation`, for messages.
        asked: the limits that are set and the timeout, by their keys, for records and messages.
    """

    limits: Limits
    timeout: float | None
    background: Background
    leftover_grace: float
    isolation: Isolation
    reuse: int
    on_unshippable: OnUnshippable
    priority: Priority
    isolation_source: str = field(default=DEFAULT, compare=False)
    asked: Mapping[str, Any] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        asked = {key: getattr(self.limits, key) for key in (*LIMITS, "unified")} | {
            "timeout": self.timeout
        }
        present = {key: value for key, value in asked.items() if value is not None}
        object.__setattr__(self, "asked", MappingProxyType(present))


class Resolver:
    """Resolves the limits of a run, an agent and a call; safe to use from many threads."""

    def __init__(self, config: Config, no_workers: str | None = None) -> None:
        """Compile the rules.

        Args:
            config: the configuration.
            no_workers: why no worker process can be made; every tool then runs inline.
        """
        self.config = config
        self._no_workers = no_workers
        self._reported = False
        self._matchers = [_Matcher(rule) for rule in config.rules]
        self._known_calls = lru_cache(_REMEMBERED)(self._resolve_call)
        # With the types: True is equal to 1, and still no count.
        self._known_changes = lru_cache(_REMEMBERED, typed=True)(self._resolve_call)
        self._known_agents = lru_cache(_REMEMBERED)(self._resolve_agent)

    def call(self, framework: str, agent: str | None, tool: str, /, **changes: object) -> Policy:
        """Return the policy of a call of `tool`; the same arguments again cost one look-up.

        `changes` are limits given in code, as `override` takes them.

        Raises:
            ConfigError: as `override`.
        """
        if len(tool) > _LONGEST_NAME or (agent is not None and len(agent) > _LONGEST_NAME):
            return self._resolve_call(framework, agent, tool, **changes)
        if not changes:
            return self._known_calls(framework, agent, tool)
        try:
            return self._known_changes(framework, agent, tool, **changes)
        except TypeError:  # an unhashable value, such as a table of devices
            return self._resolve_call(framework, agent, tool, **changes)

    def check(self) -> None:
        """Report it where the configuration asks for worker processes and there can be none.

        Raises:
            CgroupUnavailable: mode is ``enforce``.
        """
        asked = {self.config.limits.call.isolation, *(rule.isolation for rule in self.config.rules)}
        if self._no_workers is not None and "process" in asked:
            self._report_inline(self.config.source.name)

    def agent(self, framework: str, agent: str | None) -> Limits:
        """Return the limits that all calls of `agent` share."""
        if agent is not None and len(agent) > _LONGEST_NAME:
            return self._resolve_agent(framework, agent)
        return self._known_agents(framework, agent)

    def run(self) -> Limits:
        """Return the limits that all agents of the process share."""
        return limits_of(self.explain_run())

    def controllers(self) -> frozenset[str]:
        """Return the controllers that the limits of any level or rule need, such as ``memory``."""
        tables = self.config.limits
        layers = [
            self.explain_run(),
            written(tables.agent, str),
            fit(unset() | defaults(tables.call) | written(tables.call, str)),
            *(written(matcher.rule, str) for matcher in self._matchers),
        ]
        keys = {key for values in layers for key, setting in values.items() if setting.value}
        return frozenset(controller_of(key) for key in keys if key in LIMITS or is_unified(key))

    def override(self, policy: Policy, /, **changes: object) -> Policy:
        """Return `policy` with limits given in code, such as ``memory_max="1G", timeout="5s"``.

        The keys are those of a rule without its globs; None takes a limit off.

        Raises:
            ConfigError: a name or a value is wrong; the error names ``call()`` and the key.
        """
        if not changes:
            return policy
        given = validate(Limiting, changes, Source("call()"))
        values = _changed(_values_of(policy), given, "call()")
        refuse_to_hang(values, values["timeout"].value, "call()")
        return _policy_of(fit(values))

    def override_agent(self, limits: Limits, /, **changes: object) -> Limits:
        """Return the `limits` of an agent with those given in code.

        Raises:
            ConfigError: a name or a value is wrong; the error names ``agent()`` and the key.
        """
        if not changes:
            return limits
        given = validate(LimitTable, changes, Source("agent()"))
        values = _changed(values_of(limits), given, "agent()")
        # Only calls hang in the cgroup of an agent, so a timeout of every call is enough.
        refuse_to_hang(values, self.config.limits.call.timeout, "agent()")
        return limits_of(fit(values))

    def explain(self, framework: str, agent: str | None, tool: str) -> dict[str, Setting]:
        """Return every key of the policy of a call, with its source."""
        config = self.config
        values = unset() | defaults(config.limits.call)
        values["background"] = Setting(config.background, self._top_level("background"))
        values["priority"] = Setting("normal", DEFAULT)
        values |= self._table(config.limits.call, "call")
        values |= self._matching("call", framework, agent, tool)
        return fit(values)

    def explain_agent(self, framework: str, agent: str | None) -> dict[str, Setting]:
        """Return every limit that all calls of an agent share, with its source."""
        values = unset() | self._table(self.config.limits.agent, "agent")
        return fit(values | self._matching("agent", framework, agent, None))

    def explain_run(self) -> dict[str, Setting]:
        """Return every limit that all agents of the process share, with its source."""
        return fit(unset() | self._table(self.config.limits.run, "run"))

    def _resolve_call(
        self, framework: str, agent: str | None, tool: str, /, **changes: object
    ) -> Policy:
        policy = self.override(_policy_of(self.explain(framework, agent, tool)), **changes)
        if policy.isolation != "process" or self._no_workers is None:
            return policy
        self._report_inline(policy.isolation_source)
        return replace(policy, isolation="inline")

    def _report_inline(self, source: str) -> None:
        told = f'isolation = "process" (of {source}): {self._no_workers}'
        if self.config.mode == "enforce":
            raise CgroupUnavailable(
                f'mode = "enforce", but not everything can be enforced here: {told}.',
                fix='run the program with Python, or set isolation = "inline".',
            )
        if not self._reported:
            self._reported = True
            logger.warning("agentcgroup: not enforced here: %s; tools run inline", told)

    def _resolve_agent(self, framework: str, agent: str | None) -> Limits:
        return limits_of(self.explain_agent(framework, agent))

    def _top_level(self, key: str) -> str:
        is_written = key in self.config.model_fields_set
        return self.config.source.place((key,)) if is_written else DEFAULT

    def _table(self, table: LimitTable, name: str) -> Values:
        def describe(key: KeyPath) -> str:
            return f"{self.config.source.place(('limits', name, *key))} [limits.{name}]"

        return written(table, describe)

    def _matching(
        self, applies_to: str, framework: str, agent: str | None, tool: str | None
    ) -> Values:
        """Return the layer of the rules that match a call, or an agent; later rules win."""
        values: Values = {}
        for index, matcher in enumerate(self._matchers):
            if matcher.rule.applies_to == applies_to and matcher.matches(framework, agent, tool):

                def describe(key: KeyPath, index: int = index) -> str:
                    place = self.config.source.place(("rules", index, *key))
                    return f"{place} rule {index + 1}"

                values |= written(matcher.rule, describe)
        return values


class _Matcher:
    """The globs of one rule, compiled."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self._framework, self._agent, self._tool = (
            glob and re.compile(fnmatch.translate(glob))
            for glob in (rule.framework, rule.agent, rule.tool)
        )

    def matches(self, framework: str, agent: str | None, tool: str | None) -> bool:
        if self._framework and not self._framework.match(framework):
            return False
        if self._tool and not self._tool.match(tool or ""):
            return False
        if agent is None:
            # Code outside every agent has no name to match: only "any agent" includes it.
            return self.rule.agent in (None, "*")
        return not self._agent or self._agent.match(agent) is not None


def _policy_of(values: Values) -> Policy:
    choices = {key: values[key].value for key in CALL_KEYS}
    return Policy(limits_of(values), **choices, isolation_source=values["isolation"].source)


def _values_of(policy: Policy) -> Values:
    values = values_of(policy.limits)
    values |= {key: resolved(getattr(policy, key)) for key in CALL_KEYS}
    values["isolation"] = Setting(policy.isolation, policy.isolation_source)
    return values


def _changed(values: Values, given: LimitTable, where: str) -> Values:
    """Return values with those given in code; None for `unified` takes all of its files off."""
    if "unified" in given.model_fields_set and given.unified is None:
        values |= {key: Setting(None, where) for key in values if is_unified(key)}
    return values | written(given, lambda _: where)
