"""Policies: the limits of one call, one agent and the run, and which line set each of them.

A policy is put together key by key from layers: the built-in defaults, the table of the file, the
rules that match, in their order. What comes later wins. Then the keys are made to fit each other
(`_settle`), because a rule may lower memory_max below a memory_high that stands elsewhere.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from agentcgroup import units
from agentcgroup.cgroup.limits import Limits
from agentcgroup.config.loading import Config, validate
from agentcgroup.config.tables import (
    ALONE,
    CPU_WEIGHT,
    DEFAULT_TIMEOUT,
    ORDERED_PAIRS,
    Background,
    Isolation,
    Limiting,
    LimitTable,
    OnUnshippable,
    Priority,
    Rule,
    is_above,
    would_hang,
)
from agentcgroup.config.toml import Source
from agentcgroup.errors import ConfigError

__all__ = ["Policy", "Resolver", "Setting"]

#: Names come from models, so neither their number nor their length may fill the memory.
_REMEMBERED = 4096
_LONGEST_NAME = 256

DEFAULT = "default"
NOT_SET = "not set"

_LIMIT_KEYS = tuple(field.name for field in fields(Limits))
_CHOICES = ("background", "isolation", "reuse", "on_unshippable", "priority")
_CALL_KEYS = ("timeout", *_CHOICES)


@dataclass(frozen=True, slots=True)
class Policy:
    """What holds for one call.

    Attributes:
        limits: what is written into its cgroup.
        timeout: seconds it may take, None for no limit.
        background: whether processes that outlive it are killed or kept.
        isolation: where the tool's own code runs; ``auto`` is inline.
        reuse: calls of the same tool that one worker may serve.
        on_unshippable: what becomes of a call whose tool no worker can run.
        priority: its importance in words; already part of `limits` as cpu_weight.
        isolation_source: which line said where it runs, for messages.
        asked: the limits that are set and the timeout, by their keys, for records and messages.
    """

    limits: Limits
    timeout: float | None
    background: Background
    isolation: Isolation
    reuse: int
    on_unshippable: OnUnshippable
    priority: Priority
    isolation_source: str = field(default=DEFAULT, compare=False)
    asked: Mapping[str, Any] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        asked = {key: getattr(self.limits, key) for key in _LIMIT_KEYS} | {"timeout": self.timeout}
        present = {key: value for key, value in asked.items() if value is not None}
        object.__setattr__(self, "asked", MappingProxyType(present))


@dataclass(frozen=True, slots=True)
class Setting:
    """The value of one key, and what set it.

    Attributes:
        value: as `Limits` and `Policy` have it; None when nothing is written to the kernel.
        source: such as "agentcgroup.toml:12 [limits.call]" or "default".
    """

    value: Any
    source: str


_Settings = dict[str, Setting]


class Resolver:
    """Decides what holds for a run, an agent and a call; safe to use from many threads."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._matchers = [_Matcher(rule) for rule in config.rules]
        self._known_calls = lru_cache(_REMEMBERED)(self._resolve_call)
        # With the types: True is equal to 1, and still no count.
        self._known_changes = lru_cache(_REMEMBERED, typed=True)(self._resolve_call)
        self._known_agents = lru_cache(_REMEMBERED)(self._resolve_agent)

    def call(self, framework: str, agent: str | None, tool: str, /, **changes: object) -> Policy:
        """Return what holds for a call of `tool`; a repeated question costs a look-up.

        With `changes` as `override` does, and raises.
        """
        if len(tool) > _LONGEST_NAME or (agent is not None and len(agent) > _LONGEST_NAME):
            return self._resolve_call(framework, agent, tool, **changes)
        if not changes:
            return self._known_calls(framework, agent, tool)
        try:
            return self._known_changes(framework, agent, tool, **changes)
        except TypeError:  # a value that cannot be remembered, such as a table of devices
            return self._resolve_call(framework, agent, tool, **changes)

    def agent(self, framework: str, agent: str | None) -> Limits:
        """Return what all calls of `agent` share."""
        if agent is not None and len(agent) > _LONGEST_NAME:
            return self._resolve_agent(framework, agent)
        return self._known_agents(framework, agent)

    def run(self) -> Limits:
        """Return what all agents of the process share."""
        return _limits(self.explain_run())

    def controllers(self) -> frozenset[str]:
        """Return the controllers that what is configured anywhere needs, such as ``memory``."""
        tables = self.config.limits
        said = [
            self.explain_run(),
            _written(tables.agent, str),
            _settle(_unset() | _defaults(tables.call) | _written(tables.call, str)),
            *(_written(matcher.rule, str) for matcher in self._matchers),
        ]
        keys = {key for settings in said for key, setting in settings.items() if setting.value}
        return frozenset(key.split("_")[0] for key in keys.intersection(_LIMIT_KEYS))

    def override(self, policy: Policy, /, **changes: object) -> Policy:
        """Return `policy` with limits given in code, such as ``memory_max="1G", timeout="5s"``.

        The keys are those of a rule without its globs; None takes a limit off.

        Raises:
            ConfigError: a name or a value is wrong; the error names ``call()`` and the key.
        """
        if not changes:
            return policy
        given = validate(Limiting, changes, Source("call()"))
        settings = _settings_of(policy.limits, policy) | _written(given, lambda _: "call()")
        _refuse_to_hang(settings, settings["timeout"].value, "call()")
        return _policy(_settle(settings))

    def override_agent(self, limits: Limits, /, **changes: object) -> Limits:
        """Return the `limits` of an agent with those given in code.

        Raises:
            ConfigError: a name or a value is wrong; the error names ``agent()`` and the key.
        """
        if not changes:
            return limits
        given = validate(LimitTable, changes, Source("agent()"))
        settings = _settings_of(limits) | _written(given, lambda _: "agent()")
        # What hangs in the cgroup of an agent are its calls, so their end will do.
        _refuse_to_hang(settings, self.config.limits.call.timeout, "agent()")
        return _limits(_settle(settings))

    def explain(self, framework: str, agent: str | None, tool: str) -> dict[str, Setting]:
        """Return every key of the policy of a call, with what set it."""
        config = self.config
        settings = _unset() | _defaults(config.limits.call)
        settings["background"] = Setting(config.background, self._top_level("background"))
        settings["priority"] = Setting("normal", DEFAULT)
        settings |= self._table(config.limits.call, "call")
        settings |= self._matching("call", framework, agent, tool)
        return _settle(settings)

    def explain_agent(self, framework: str, agent: str | None) -> dict[str, Setting]:
        """Return every limit that all calls of an agent share, with what set it."""
        settings = _unset() | self._table(self.config.limits.agent, "agent")
        return _settle(settings | self._matching("agent", framework, agent, None))

    def explain_run(self) -> dict[str, Setting]:
        """Return every limit that all agents of the process share, with what set it."""
        return _settle(_unset() | self._table(self.config.limits.run, "run"))

    def _resolve_call(
        self, framework: str, agent: str | None, tool: str, /, **changes: object
    ) -> Policy:
        return self.override(_policy(self.explain(framework, agent, tool)), **changes)

    def _resolve_agent(self, framework: str, agent: str | None) -> Limits:
        return _limits(self.explain_agent(framework, agent))

    def _top_level(self, key: str) -> str:
        written = key in self.config.model_fields_set
        return self.config.source.place((key,)) if written else DEFAULT

    def _table(self, table: LimitTable, name: str) -> _Settings:
        def describe(key: str) -> str:
            return f"{self.config.source.place(('limits', name, key))} [limits.{name}]"

        return _written(table, describe)

    def _matching(
        self, applies_to: str, framework: str, agent: str | None, tool: str | None
    ) -> _Settings:
        """Put together what the rules for this call, or agent, say; later ones win."""
        settings: _Settings = {}
        for index, matcher in enumerate(self._matchers):
            if matcher.rule.applies_to == applies_to and matcher.matches(framework, agent, tool):

                def describe(key: str, index: int = index) -> str:
                    place = self.config.source.place(("rules", index, key))
                    return f"{place} rule {index + 1}"

                settings |= _written(matcher.rule, describe)
        return settings


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
            # Code outside every agent has no name to compare: only "any agent" speaks of it.
            return self.rule.agent in (None, "*")
        return not self._agent or self._agent.match(agent) is not None


def _unset() -> _Settings:
    return dict.fromkeys(_LIMIT_KEYS, Setting(None, NOT_SET))


def _defaults(table: LimitTable) -> _Settings:
    values = {key: table.value(key) for key in type(table).model_fields}
    return {key: Setting(value, DEFAULT) for key, value in values.items() if value is not None}


def _written(table: LimitTable, describe: Callable[[str], str]) -> _Settings:
    """Return what stands in a table; a priority stands for its weight, unless that does too."""
    keys = table.model_fields_set.intersection(_LIMIT_KEYS + _CALL_KEYS)
    # For a limit None is a value, "no limit"; for a choice it is none.
    keys -= {key for key in _CHOICES if getattr(table, key, None) is None}
    settings = {key: Setting(table.value(key), describe(key)) for key in keys}
    if "priority" in keys and "cpu_weight" not in keys:
        priority = settings["priority"]
        settings["cpu_weight"] = Setting(CPU_WEIGHT[priority.value], f"{priority.source}, priority")
    return settings


def _settings_of(limits: Limits, policy: Policy | None = None) -> _Settings:
    """Take a policy apart again."""
    values = {key: getattr(limits, key) for key in _LIMIT_KEYS}
    if policy is not None:
        values |= {key: getattr(policy, key) for key in _CALL_KEYS}
    settings = {k: Setting(value, NOT_SET if value is None else "") for k, value in values.items()}
    if policy is not None:
        settings["isolation"] = Setting(policy.isolation, policy.isolation_source)
    return settings


def _settle(settings: _Settings) -> _Settings:
    """Make keys that come from different places fit each other."""
    top = settings["memory_max"]
    if top.source == DEFAULT:
        # A default gives way to what somebody wrote.
        floors = [settings[key] for key, upper in ORDERED_PAIRS if upper == "memory_max"]
        for floor in floors:
            if is_above(floor.value, top.value):
                top = Setting(floor.value, f"{DEFAULT}, raised with {floor.source}")
        settings["memory_max"] = top
    for lower, upper in ORDERED_PAIRS:
        low, high = settings[lower], settings[upper]
        if is_above(low.value, high.value):
            settings[lower] = Setting(high.value, f"{low.source}, lowered to {upper}")
    quota = settings["cpu_max"].value
    burst = settings["cpu_max_burst"]
    if quota is not None and is_above(burst.value, quota[0]):
        settings["cpu_max_burst"] = Setting(quota[0], f"{burst.source}, lowered to cpu_max")
    if isinstance(top.value, int) and settings["memory_swap_max"].source == NOT_SET:
        # Without it memory_max is no bound on a machine with swap.
        settings["memory_swap_max"] = Setting(0, f"{DEFAULT} with memory_max")
    if "timeout" in settings:
        high, timeout = settings["memory_high"], settings["timeout"]
        if would_hang(high.value, top.value, timeout.value):
            # Only several rules together get here; one by one they were refused (settings).
            seconds = units.parse_duration(DEFAULT_TIMEOUT)
            settings["timeout"] = Setting(seconds, f"{DEFAULT}, since memory_high stands alone")
    return settings


def _refuse_to_hang(settings: _Settings, timeout: float | None, where: str) -> None:
    """Raise when code asks for a memory_high that nothing ends."""
    if would_hang(settings["memory_high"].value, settings["memory_max"].value, timeout):
        raise ConfigError(ALONE, file=where, key="memory_high")


def _limits(settings: _Settings) -> Limits:
    return Limits(**{key: settings[key].value for key in _LIMIT_KEYS})


def _policy(settings: _Settings) -> Policy:
    chosen = {key: settings[key].value for key in _CALL_KEYS}
    return Policy(_limits(settings), **chosen, isolation_source=settings["isolation"].source)
