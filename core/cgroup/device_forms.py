"""The forms of values by block device, and of what stands in them: rates and latencies."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from agentcgroup import units
from agentcgroup.cgroup.forms import MAX, Form, Quantity, Size, json_schema

__all__ = ["DEVICE", "LATENCY", "RATE", "Bounds", "PerDevice"]


class _Rate(Size):
    """Bytes or operations a second."""

    def parse(self, value: object) -> Quantity:
        rate = units.parse_size(value)
        if rate == 0:
            raise ValueError(
                "0 would stop all of it, which the kernel does not take; write at least 1"
            )
        return rate


class _Latency(Form):
    """A latency target: whole microseconds, written as `target=MICROSECONDS`."""

    schema = json_schema("string", "number", examples=["5ms", "none"])

    def parse(self, value: object) -> Quantity:
        seconds = units.parse_duration(value)
        if seconds is None:
            return MAX
        if seconds < 1e-6:
            raise ValueError(
                f"{value!r} is no latency: write at least '1us', or 'none' for no target"
            )
        return round(seconds * 1e6)

    def show(self, value: Quantity) -> str:
        return "none" if value == MAX else units.format_duration(value / 1e6)

    def data(self, value: Quantity) -> tuple[str, ...]:
        return (f"target={value}",)


class _Device(Form):
    """The key of a table by block device."""

    def parse(self, value: object) -> str:
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,7}:[0-9]{1,7}", value):
            return value
        raise ValueError(
            f"{value!r} is not a device: write MAJOR:MINOR as lsblk shows it, such as 8:0"
        )


class PerDevice(Form):
    """A table of values by block device, "MAJOR:MINOR"; each device is one write.

    Attributes:
        each: the form of the values.
    """

    def __init__(self, each: Form, example: Mapping[str, object]) -> None:
        self.each = each
        self.schema = {"examples": [example]}

    def show(self, value: Mapping[str, Any]) -> str:
        """Return the devices in one line."""
        return "; ".join(f"{device} {self.each.show(one)}" for device, one in value.items())

    def data(self, value: Mapping[str, Any]) -> tuple[str, ...]:
        """Return one text for each device."""
        return tuple(
            f"{device} {text}" for device, one in value.items() for text in self.each.data(one)
        )


class Bounds(Form):
    """A table of several named values, which are written together as `NAME=VALUE NAME=VALUE`.

    Attributes:
        name: what the JSON schema calls the table.
        help: one line about the table.
        parts: form and one line of help of each value.
    """

    def __init__(self, name: str, text: str, parts: Mapping[str, tuple[Form, str]]) -> None:
        self.name = name
        self.help = text
        self.parts = parts

    def show(self, value: Mapping[str, Any]) -> str:
        """Return the values by their names."""
        return " ".join(f"{name}={one}" for name, one in value.items())

    def data(self, value: Mapping[str, Any]) -> tuple[str, ...]:
        """Return what `show` returns, which is the kernel's own form."""
        return (self.show(value),)


RATE: Final = _Rate()
LATENCY: Final = _Latency()
DEVICE: Final = _Device()
