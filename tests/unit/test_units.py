"""Sizes, durations and CPU bandwidths: parsing, and formatting that can be parsed again."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcgroup.units import (
    format_cpu,
    format_duration,
    format_size,
    parse_cpu,
    parse_duration,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512M", 512 * 1024**2),
        ("1.5G", 3 * 1024**3 // 2),
        ("64KiB", 65536),
        ("64kb", 65536),
        ("0.3K", 307),
        ("2 GiB", 2 * 1024**3),
        ("1T", 1024**4),
        ("7", 7),
        ("7B", 7),
        (" 1G ", 1024**3),
        ("max", "max"),
        ("MAX", "max"),
        (1048576, 1048576),
        (0, 0),
        ("9007199254740993", 9007199254740993),  # not exact as a float
    ],
)
def test_sizes_are_powers_of_1024(text: object, size: object) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        *("512X", "", "M", "1,5G", "-1", "1e3", "1_000", "1G 2M", "\u0661M", "1" * 5000, "5%"),
        *(-1, 2**63, "9E", 1.5, True, None, [], b"1M"),
    ],
)
def test_error_for_a_bad_size_says_what_to_write(text: object) -> None:
    with pytest.raises(ValueError, match=r"'512M'|'max' (is|for) no limit"):
        parse_size(text)


def test_a_percentage_is_a_share_of_the_whole() -> None:
    assert parse_size("50%", whole=1000) == 500
    assert parse_size("12.5 %", whole=1000) == 125
    for wrong in ("0%", "101%"):
        with pytest.raises(ValueError, match="at most 100%"):
            parse_size(wrong, whole=1000)


@given(st.integers(0, 2**62))
def test_a_formatted_size_can_be_parsed(size: int) -> None:
    text = format_size(size)
    assert len(text) <= len("1023.9 MiB")
    assert parse_size(text) == pytest.approx(size, rel=0.05)


@given(st.integers(1, 1023), st.sampled_from(["KiB", "MiB", "GiB", "TiB", "PiB"]))
def test_whole_units_are_formatted_exactly(count: int, unit: str) -> None:
    assert format_size(parse_size(f"{count} {unit}")) == f"{count} {unit}"


def test_sizes_are_formatted_in_the_largest_unit_that_fits() -> None:
    assert format_size(0) == "0 B"
    assert format_size(1023) == "1023 B"
    assert format_size(1024**2 - 1) == "1 MiB"
    assert format_size(1610612736) == "1.5 GiB"
    assert format_size("max") == "max"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10m", 600.0),
        ("1h30m", 5400.0),
        ("1h 30m", 5400.0),
        ("1d", 86400.0),
        ("250ms", 0.25),
        ("1s500ms", 1.5),
        ("5us", 5e-6),
        ("1.5s", 1.5),
        ("5", 5.0),
        (5, 5.0),
        (0.5, 0.5),
        ("none", None),
    ],
)
def test_durations_add_up_their_units(text: object, seconds: float | None) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        *("", "10x", "m", "30m1h", "5m5m", "-5s", "1e3s", "1" * 5000, "max", "0x10"),
        *(-1, math.nan, math.inf, 1e300, True, None, [], "400000d"),
    ],
)
def test_error_for_a_bad_duration_says_what_to_write(text: object) -> None:
    with pytest.raises(ValueError, match="'none' for no limit"):
        parse_duration(text)


@given(st.floats(1e-6, 1e8))
def test_a_formatted_duration_can_be_parsed(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=0.5)
    if seconds >= 60:
        assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, abs=0.5)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "none"),
        (0, "0s"),
        (2e-6, "2us"),
        (0.25, "250ms"),
        (0.9996, "1s"),
        (2.5, "2.5s"),
        (59.97, "1m"),
        (600, "10m"),
        (5400, "1h30m"),
        (90061, "1d1h1m1s"),
    ],
)
def test_durations_are_formatted_with_the_precision_of_their_length(
    seconds: float | None, text: str
) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "cpu"),
    [
        ("200%", (200_000, 100_000)),
        ("12.5 %", (12_500, 100_000)),
        ("1%", (1_000, 100_000)),
        ("max", ("max", 100_000)),
        ("200000 100000", (200_000, 100_000)),
        ("max 50000", ("max", 50_000)),
        ((150_000, 100_000), (150_000, 100_000)),
        (["max", 100_000], ("max", 100_000)),
    ],
)
def test_cpu_is_percent_of_one_cpu_or_the_kernels_pair(text: object, cpu: object) -> None:
    assert parse_cpu(text) == cpu


@pytest.mark.parametrize("text", ["2", 2, 1.5, "1.5", "200", "", "1 2 3", "-5%", None, (1.5, 2)])
def test_a_bare_number_is_ambiguous_and_no_cpu_limit(text: object) -> None:
    with pytest.raises(ValueError, match=r"'150%'"):
        parse_cpu(text)


@pytest.mark.parametrize(
    "text", ["0.5%", "0%", "999 100000", "5000 999", "5000 1000001", "1000", (5, 0)]
)
def test_a_cpu_limit_that_the_kernel_refuses_is_an_error(text: object) -> None:
    with pytest.raises(ValueError, match=r"kernel|not a CPU limit"):
        parse_cpu(text)


@given(st.integers(1, 100_000))
def test_a_formatted_cpu_limit_can_be_parsed(percent: int) -> None:
    cpu = parse_cpu(f"{percent}%")
    assert format_cpu(cpu) == f"{percent}%"
    assert format_cpu(("max", 100_000)) == "max"
