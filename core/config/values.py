"""The types of single values in a configuration: how each is read and what its JSON schema is.

A parser raises ValueError with a sentence that says what to write instead. The values of limits are
not here: their forms stand in `agentcgroup.cgroup.forms`.
"""

from __future__ import annotations

import os
from typing import Annotated, Literal

from pydantic import BeforeValidator, ValidationInfo, WithJsonSchema

from agentcgroup import units

__all__ = [
    "Backend",
    "Background",
    "CgroupPath",
    "Glob",
    "Grace",
    "Isolation",
    "Mode",
    "OnUnshippable",
    "Path",
    "Pause",
    "Priority",
    "Reuse",
    "Timeout",
    "whole",
]

Mode = Literal["auto", "enforce", "observe", "off"]
Background = Literal["auto", "kill", "keep"]
Isolation = Literal["auto", "inline", "process"]
OnUnshippable = Literal["error", "inline"]
Priority = Literal["high", "normal", "low"]
#: Seconds; a longer wait for leftovers would look like a tool that hangs.
_LONGEST_GRACE = 60.0
Backend = Literal["auto", "libbpf", "procs", "bcc", "off"]


def whole(low: int, high: int, what: str) -> BeforeValidator:
    """Return the parser of whole numbers of a range; `what` names the number in errors."""

    def check(value: object) -> int | None:
        if value is None or (type(value) is int and low <= value <= high):
            return value
        raise ValueError(f"{value!r} is not {what}: write a whole number from {low} to {high}")

    return BeforeValidator(check)


def _timeout(value: object) -> float | None:
    seconds = None if value is None else units.parse_duration(value)
    if seconds == 0:
        raise ValueError("0 leaves no time at all; write 'none' for no limit")
    return seconds


def _pause(value: object) -> float:
    seconds = units.parse_duration(value)
    if not seconds:
        raise ValueError(f"{value!r} is no time to wait: write one such as '1m'")
    return seconds


def _grace(value: object) -> float | None:
    seconds = None if value is None else units.parse_duration(value)
    if (seconds is None and value is not None) or (seconds or 0) > _LONGEST_GRACE:
        raise ValueError(f"{value!r} is no short time: write one such as '2s', '1m' at most")
    return seconds


def _glob(value: object) -> str | None:
    if value is None or (isinstance(value, str) and value):
        return value
    raise ValueError(f"{value!r} is not a pattern: write a name or a glob such as 'run_*'")


def _path(value: object, info: ValidationInfo) -> str | None:
    """Resolve a path against the folder of the file it stands in."""
    if value is None:
        return None
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise ValueError(f"{value!r} is not a path: write it as a string")
    folder = (info.context or {}).get("folder", "")
    return os.path.join(folder, os.path.expanduser(os.fspath(value)))


def _absolute(value: object) -> str | None:
    if value is None or (isinstance(value, str) and value.startswith("/")):
        return value
    raise ValueError(f"{value!r} is not an absolute path: write it from '/sys/fs/cgroup' on")


def _schema(*types: str, examples: list[object], **more: object) -> WithJsonSchema:
    return WithJsonSchema({"type": list(types), "examples": examples, **more})


Reuse = Annotated[
    int | None,
    whole(1, 1_000_000, "a number of calls"),
    _schema("integer", examples=[1, 100], minimum=1, maximum=1_000_000),
]
#: Seconds; None is no limit.
Timeout = Annotated[
    float | None,
    BeforeValidator(_timeout),
    _schema("string", "number", examples=["10m", "1h30m", 5, "none"]),
]
#: Seconds, more than none.
Pause = Annotated[float, BeforeValidator(_pause), _schema("string", "number", examples=["1m", 30])]
#: Seconds; the answer of a call waits for them.
Grace = Annotated[
    float | None, BeforeValidator(_grace), _schema("string", "number", examples=["2s", 0])
]
Glob = Annotated[
    str | None, BeforeValidator(_glob), _schema("string", examples=["run_*"], minLength=1)
]
Path = Annotated[
    str | None, BeforeValidator(_path), _schema("string", examples=["agentcgroup.jsonl"])
]
CgroupPath = Annotated[
    str | None,
    BeforeValidator(_absolute),
    _schema("string", examples=["/sys/fs/cgroup/agents"], pattern="^/"),
]
