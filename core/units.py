"""Parse and format sizes, durations and CPU bandwidths.

All functions are pure. A parser raises ValueError for a value that it cannot read; the text says
what to write instead. The caller adds the place of the value, such as file, line and key.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

__all__ = [
    "format_cpu",
    "format_duration",
    "format_size",
    "parse_cpu",
    "parse_duration",
    "parse_size",
]

_Quantity = int | Literal["max"]

#: Twenty digits hold every valid number; longer ones would only cost slow arithmetic.
_NUMBER = r"[0-9]{1,20}(?:\.[0-9]{1,20})?"

#: Units are powers of 1024 in every spelling, as in the kernel's memparse() (lib/cmdline.c).
_SIZE = re.compile(rf"({_NUMBER})\s*([KMGTPE]?)(?:i?B)?", re.IGNORECASE)
_SIZE_UNITS = ("", "K", "M", "G", "T", "P", "E")
_SIZE_LIMIT = 2**63 - 1

_PERCENT = re.compile(rf"({_NUMBER})\s*%")
_CPU_PAIR = re.compile(r"([0-9]{1,20}|max)\s+([0-9]{1,20})")

_DURATION_UNITS = {
    "d": Fraction(86400),
    "h": Fraction(3600),
    "m": Fraction(60),
    "s": Fraction(1),
    "ms": Fraction(1, 1000),
    "us": Fraction(1, 1_000_000),
}
_SECONDS = re.compile(_NUMBER)
_DURATION = re.compile(r"\s*".join(rf"(?:({_NUMBER})\s*{unit})?" for unit in _DURATION_UNITS))
#: 2**63 nanoseconds, the maximum of the kernel's ktime_t: 292 years.
_DURATION_LIMIT = 2**63 // 10**9

# kernel/sched/core.c, tg_set_cfs_bandwidth(): quota and period at least 1 ms, period at most 1 s.
_CPU_PERIOD = 100_000
_CPU_PERIOD_RANGE = range(1_000, 1_000_000 + 1)
_CPU_QUOTA_RANGE = range(1_000, 2**44)


def parse_size(value: object, *, whole: int | None = None) -> _Quantity:
    """Parse a number of bytes: ``"512M"``, ``"1.5G"``, ``"64KiB"``, ``1048576``, ``"max"``.

    K, M, G, T, P and E are powers of 1024 in every spelling (K, KB, KiB), as in the kernel. The
    result is rounded down to whole bytes.

    Args:
        value: the size in the user's form.
        whole: the bytes that ``"100%"`` stands for; without it, a percentage is an error.

    Returns:
        Bytes, or "max" for no limit.

    Raises:
        ValueError: `value` is not a size; the text says what to write.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        if 0 <= value <= _SIZE_LIMIT:
            return value
        raise ValueError(f"{value} is not a size: bytes go from 0 to 8 EiB; 'max' is no limit")
    if isinstance(value, str):
        text = value.strip()
        if text.lower() == "max":
            return "max"
        if match := _SIZE.fullmatch(text):
            number, unit = match.groups()
            size = int(Fraction(number) * 1024 ** _SIZE_UNITS.index(unit.upper()))
            if size <= _SIZE_LIMIT:
                return size
            raise ValueError(f"{value!r} is more than 8 EiB; write 'max' for no limit")
        if whole is not None and (match := _PERCENT.fullmatch(text)):
            share = Fraction(match[1])
            if 0 < share <= 100:
                return int(whole * share / 100)
            raise ValueError(f"{value!r} is not a share: write more than 0% and at most 100%")
    raise ValueError(
        f"{value!r} is not a size: write a number with K, M, G or T, such as '512M', "
        "or 'max' for no limit"
    )


def parse_duration(value: object) -> float | None:
    """Parse a duration: ``"10m"``, ``"1h30m"``, ``"250ms"``, ``5`` (seconds), ``"none"``.

    The units are d, h, m, s, ms and us; the largest stands first.

    Returns:
        Seconds, or None for no limit.

    Raises:
        ValueError: `value` is not a duration; the text says what to write.
    """
    seconds: Fraction | None = None
    if isinstance(value, int | float) and not isinstance(value, bool):
        # NaN fails both comparisons, infinity the second one.
        if 0 <= value <= _DURATION_LIMIT:
            return float(value)
    elif isinstance(value, str):
        text = value.strip().lower()
        if text == "none":
            return None
        if _SECONDS.fullmatch(text):
            seconds = Fraction(text)
        elif text and (match := _DURATION.fullmatch(text)):
            seconds = sum(
                (
                    Fraction(number) * size
                    for number, size in zip(match.groups(), _DURATION_UNITS.values(), strict=True)
                    if number
                ),
                Fraction(0),
            )
    if seconds is not None and seconds <= _DURATION_LIMIT:
        return float(seconds)
    if seconds is not None:
        raise ValueError(f"{value!r} is more than 292 years; write 'none' for no limit")
    raise ValueError(
        f"{value!r} is not a duration: write a number with d, h, m, s or ms, such as '10m' "
        "or '1h30m', or 'none' for no limit"
    )


def parse_cpu(value: object) -> tuple[_Quantity, int]:
    """Parse a CPU bandwidth: ``"200%"`` of one CPU, ``"max"``, or the kernel's form.

    The kernel's form is ``"QUOTA PERIOD"`` in microseconds, as a string or a pair
    (Documentation/admin-guide/cgroup-v2.rst, cpu.max). A bare number is an error, because it could
    mean CPUs, per cent or microseconds.

    Returns:
        (quota, period) in microseconds; a quota of "max" is no limit.

    Raises:
        ValueError: `value` is not a CPU limit, or the kernel would refuse it.
    """
    if isinstance(value, str):
        text = value.strip().lower()
        if text == "max":
            return "max", _CPU_PERIOD
        if match := _PERCENT.fullmatch(text):
            quota = int(Fraction(match[1]) * _CPU_PERIOD / 100)
            return _cpu_pair(value, quota, _CPU_PERIOD)
        if match := _CPU_PAIR.fullmatch(text):
            return _cpu_pair(value, "max" if match[1] == "max" else int(match[1]), int(match[2]))
    elif isinstance(value, Sequence) and len(value) == 2:
        quota, period = value
        if type(period) is int and (quota == "max" or type(quota) is int):
            return _cpu_pair(value, quota, period)
    raise ValueError(
        f"{value!r} is not a CPU limit: write a percentage of one CPU such as '150%', "
        "'QUOTA PERIOD' in microseconds such as '150000 100000', or 'max' for no limit"
    )


def _cpu_pair(value: object, quota: _Quantity, period: int) -> tuple[_Quantity, int]:
    if period not in _CPU_PERIOD_RANGE:
        raise ValueError(f"{value!r}: the kernel takes periods from 1000 to 1000000 microseconds")
    if quota != "max" and quota not in _CPU_QUOTA_RANGE:
        raise ValueError(
            f"{value!r} is out of range: the kernel's least is 1000 microseconds a period, "
            "which is '1%' of one CPU; write 'max' for no limit"
        )
    return quota, period


def format_size(size: _Quantity) -> str:
    """Format bytes for people and models: ``"512 MiB"``, ``"1.5 GiB"``, ``"max"``.

    The text has at most one decimal, and `parse_size` can read it.
    """
    if size == "max":
        return "max"
    if size < 1024:
        return f"{size} B"
    value = float(size)
    for unit in _SIZE_UNITS[1:]:
        value /= 1024
        # A number that would round up to 1024 takes the next unit.
        if value < 1023.95 or unit == _SIZE_UNITS[-1]:
            break
    return f"{value:.1f}".removesuffix(".0") + f" {unit}iB"


def format_duration(seconds: float | None) -> str:
    """Format seconds for people and models: ``"1h30m"``, ``"2.5s"``, ``"250ms"``, ``"none"``.

    The text has whole seconds from one minute up, tenths from one second up, and whole milliseconds
    or microseconds below. `parse_duration` can read it.
    """
    if seconds is None:
        return "none"
    if 0 < seconds < 0.9995:
        milliseconds = seconds * 1000
        return f"{milliseconds:.0f}ms" if milliseconds >= 1 else f"{milliseconds * 1000:.0f}us"
    if seconds < 59.95:
        return f"{seconds:.1f}".removesuffix(".0") + "s"
    rest = round(seconds)
    parts = []
    for unit in ("d", "h", "m", "s"):
        count, rest = divmod(rest, int(_DURATION_UNITS[unit]))
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def format_cpu(cpu: tuple[_Quantity, int]) -> str:
    """Format a CPU bandwidth for people and models: ``"150%"`` of one CPU, or ``"max"``."""
    quota, period = cpu
    return "max" if quota == "max" else f"{100 * quota / period:.2f}".rstrip("0").rstrip(".") + "%"
