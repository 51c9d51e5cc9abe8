"""The layers of a policy: values by key, each with the line that set it, made to fit each other.

A later layer wins, key by key. `fit` then makes the keys fit each other, because a rule may lower
memory_max below a memory_high that stands elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agentcgroup import units
from agentcgroup.cgroup.limits import LIMITS, Limits
from agentcgroup.config.constraints import ALONE, ORDERED_PAIRS, is_above, would_hang
from agentcgroup.config.limit_tables import CPU_WEIGHT, DEFAULT_TIMEOUT, LimitTable
from agentcgroup.config.toml import KeyPath
from agentcgroup.errors import ConfigError

__all__ = [
    "CALL_KEYS",
    "DEFAULT",
    "Setting",
    "Values",
    "defaults",
    "fit",
    "is_unified",
    "limits_of",
    "refuse_to_hang",
    "resolved",
    "unset",
    "values_of",
    "written",
]

#: Sources of values that no line set.
DEFAULT = "default"
NOT_SET = "not set"

_LIMIT_KEYS = tuple(LIMITS)
#: The keys that are a choice: for them None is no value.
_CHOICES = ("background", "leftover_grace", "isolation", "reuse", "on_unshippable", "priority")
#: The keys of a call that are no limits of its cgroup.
CALL_KEYS = ("timeout", *_CHOICES)


@dataclass(frozen=True, slots=True)
class Setting:
    """The value of one key, and its source.

    Attributes:
        value: as `Limits` and `Policy` have it; None when nothing is written to the kernel.
        source: such as "agentcgroup.toml:12 [limits.call]" or "default".
    """

    value: Any
    source: str


#: Values by key: those of limits, those of `CALL_KEYS`, and those of `unified` by file.
Values = dict[str, Setting]


def unset() -> Values:
    """Return the lowest layer: no limit is set."""
    return dict.fromkeys(_LIMIT_KEYS, Setting(None, NOT_SET))


def defaults(table: LimitTable) -> Values:
    """Return the built-in defaults of a table."""
    values = {key: table.value(key) for key in type(table).model_fields}
    return {key: Setting(value, DEFAULT) for key, value in values.items() if value is not None}


def is_unified(key: str) -> bool:
    """Return whether a key is a file of the `unified` table: only those have a dot."""
    return "." in key


def written(table: LimitTable, describe: Callable[[KeyPath], str]) -> Values:
    """Return the keys that are written in a table, with the source that `describe` gives.

    The files of `unified` are keys of their own, so that rules change them one by one. A priority
    sets cpu_weight too, unless the table has a cpu_weight of its own.
    """
    keys = table.model_fields_set.intersection(_LIMIT_KEYS + CALL_KEYS)
    # None means "no limit" for a limit, and nothing for a choice.
    keys -= {key for key in _CHOICES if getattr(table, key, None) is None}
    values = {key: Setting(table.value(key), describe((key,))) for key in keys}
    for file, data in (table.unified or {}).items():
        values[file] = Setting(data, describe(("unified", file)))
    if "priority" in keys and "cpu_weight" not in keys:
        priority = values["priority"]
        values["cpu_weight"] = Setting(CPU_WEIGHT[priority.value], f"{priority.source}, priority")
    return values


def values_of(limits: Limits) -> Values:
    """Return the layer that `limits_of` has made these limits of; only None keeps its source."""
    values = {key: resolved(getattr(limits, key)) for key in _LIMIT_KEYS}
    return values | {file: resolved(data) for file, data in (limits.unified or {}).items()}


def resolved(value: Any) -> Setting:
    """Return a value whose source is not known any more."""
    return Setting(value, NOT_SET if value is None else "")


def fit(values: Values) -> Values:
    """Make values of different layers fit each other: change them in place and return them."""
    top = values["memory_max"]
    if top.source == DEFAULT:
        # A default yields to a written value.
        floors = [values[key] for key, upper in ORDERED_PAIRS if upper == "memory_max"]
        for floor in floors:
            if is_above(floor.value, top.value):
                top = Setting(floor.value, f"{DEFAULT}, raised with {floor.source}")
        values["memory_max"] = top
    for lower, upper in ORDERED_PAIRS:
        low, high = values[lower], values[upper]
        if is_above(low.value, high.value):
            values[lower] = Setting(high.value, f"{low.source}, lowered to {upper}")
    quota = values["cpu_max"].value
    burst = values["cpu_max_burst"]
    if quota is not None and is_above(burst.value, quota[0]):
        values["cpu_max_burst"] = Setting(quota[0], f"{burst.source}, lowered to cpu_max")
    if isinstance(top.value, int) and values["memory_swap_max"].source == NOT_SET:
        # On a machine with swap, memory_max alone bounds nothing.
        values["memory_swap_max"] = Setting(0, f"{DEFAULT} with memory_max")
    if "timeout" in values:
        high, timeout = values["memory_high"], values["timeout"]
        if would_hang(high.value, top.value, timeout.value):
            # Only several rules together get here: `tables.Config` refuses each one alone.
            seconds = units.parse_duration(DEFAULT_TIMEOUT)
            values["timeout"] = Setting(seconds, f"{DEFAULT}, since memory_high stands alone")
    return values


def refuse_to_hang(values: Values, timeout: float | None, where: str) -> None:
    """Raise ConfigError when code asks for a memory_high that no other limit ends."""
    if would_hang(values["memory_high"].value, values["memory_max"].value, timeout):
        raise ConfigError(ALONE, file=where, key="memory_high")


def limits_of(values: Values) -> Limits:
    """Return the limits of one cgroup."""
    unified = {
        key: setting.value
        for key, setting in values.items()
        if "." in key and setting.value is not None
    }
    return Limits(**{key: values[key].value for key in _LIMIT_KEYS}, unified=unified or None)
