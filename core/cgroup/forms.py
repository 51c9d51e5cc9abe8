"""The forms of limit values: how people write them and how the kernel takes them.

A form reads a value of the configuration (`Form.parse`), shows it to people (`Form.show`) and gives
the text that is written to the kernel's file (`Form.data`). Forms are pure: they open no file. A
value that cannot be read raises ValueError with a sentence that says what to write instead; the
caller adds the file, the line and the key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal

from agentcgroup import units

__all__ = [
    "COUNT",
    "CPU",
    "FLAG",
    "ID_LIST",
    "MAX",
    "MEMORY",
    "MEMORY_BOUND",
    "MICROSECONDS",
    "WEIGHT",
    "Form",
    "Memory",
    "Quantity",
    "Size",
    "Weight",
    "json_schema",
]

MAX: Literal["max"] = "max"

#: A number in the unit of its file, or "max" for no limit.
Quantity = int | Literal["max"]


class Form:
    """One form of value.

    Attributes:
        schema: the JSON schema of what people may write.
    """

    schema: Mapping[str, Any] = {}

    def parse(self, value: object) -> Any:
        """Return the value as `Limits` has it.

        Raises:
            ValueError: the value cannot be read; the text says what to write.
        """
        raise NotImplementedError

    def show(self, value: Any) -> str:
        """Return the value as people read it."""
        return str(value)

    def data(self, value: Any) -> tuple[str, ...]:
        """Return what is written to the kernel's file, one text for each write."""
        return (str(value),)


def json_schema(*types: str, examples: list[object], **more: object) -> Mapping[str, Any]:
    """Return the JSON schema of a value of these types."""
    return {"type": list(types), "examples": examples, **more}


class Size(Form):
    """A number with a unit of 1024, or "max"."""

    schema = json_schema(
        "string",
        "integer",
        examples=["512M", "1.5G", "max"],
        pattern=r"^(max|[0-9]+(\.[0-9]+)?\s*([KkMmGgTtPpEe]?([Ii]?[Bb])?|%))$",
    )


class Memory(Size):
    """Bytes of memory, at least `least`."""

    def __init__(self, least: int = 0) -> None:
        self._least = least

    def parse(self, value: object, whole: int | None = None) -> Quantity:
        """Return bytes; a percentage such as "50%" is of `whole` bytes."""
        size = units.parse_size(value, whole=whole)
        if size != MAX and size < self._least:
            unit_is_missing = size > 0 and str(size) == str(value).strip()
            raise ValueError(
                f"{value!r} is {units.format_size(size)}, less than any process needs; "
                + (f"did you mean '{size}M'?" if unit_is_missing else "write at least '1M'")
            )
        return size

    def show(self, value: Quantity) -> str:
        """Return the size with its unit."""
        return units.format_size(value)


class _Count(Form):
    schema = json_schema("integer", "string", examples=[256, "max"], pattern="^max$", minimum=1)

    def parse(self, value: object) -> Quantity:
        if value == MAX:
            return MAX
        if type(value) is int and 1 <= value < 2**31:
            return value
        raise ValueError(f"{value!r} is not a count: write a whole number from 1, or 'max'")


class _Whole(Form):
    """A whole number of a range; `what` names it in errors, `unit` follows it for people."""

    def __init__(
        self, low: int, high: int, what: str, *, schema: Mapping[str, Any], unit: str = ""
    ) -> None:
        self.schema = schema
        self._range = range(low, high + 1)
        self._what = what
        self._unit = unit

    def parse(self, value: object) -> int:
        if type(value) is int and value in self._range:
            return value
        raise ValueError(
            f"{value!r} is not {self._what}: write a whole number from {self._range[0]} "
            f"to {self._range[-1]}"
        )

    def show(self, value: int) -> str:
        return f"{value}{self._unit}"


class Weight(_Whole):
    """A share of what is contended, 1 to 10000; the kernel's default is 100."""

    def __init__(self, prefix: str = "") -> None:
        """Write the weight behind `prefix`: io.weight takes "default 100"."""
        schema = json_schema("integer", examples=[100], minimum=1, maximum=10_000)
        super().__init__(1, 10_000, "a weight", schema=schema)
        self._prefix = prefix

    def data(self, value: int) -> tuple[str, ...]:
        """Return the weight behind its prefix."""
        return (f"{self._prefix}{value}",)


class _Cpu(Form):
    """CPU bandwidth: (quota, period) in microseconds."""

    schema = json_schema("string", examples=["150%", "150000 100000", "max"])

    def parse(self, value: object) -> tuple[Quantity, int]:
        return units.parse_cpu(value)

    def show(self, value: tuple[Quantity, int]) -> str:
        return units.format_cpu(value)

    def data(self, value: tuple[Quantity, int]) -> tuple[str, ...]:
        quota, period = value
        return (f"{quota} {period}",)


class _Flag(Form):
    schema: Mapping[str, Any] = {"type": "boolean"}

    def parse(self, value: object) -> bool:
        if isinstance(value, bool):
            return value
        raise ValueError(f"{value!r} is not a switch: write true or false, without quotes")

    def show(self, value: bool) -> str:
        return str(value).lower()

    def data(self, value: bool) -> tuple[str, ...]:
        return (str(int(value)),)


_IDS: Final = r"[0-9]{1,6}(?:-[0-9]{1,6})?(?:,[0-9]{1,6}(?:-[0-9]{1,6})?)*"


class _IdList(Form):
    """Numbers of CPUs or of memory nodes, in the kernel's list format."""

    schema = json_schema("string", examples=["0-3,8"], pattern=f"^{_IDS}$")

    def parse(self, value: object) -> str:
        if isinstance(value, str) and re.fullmatch(_IDS, value):
            for part in value.split(","):
                first, _, last = part.partition("-")
                if last and int(last) < int(first):
                    raise ValueError(f"{part!r} runs backwards: write '{last}-{first}'")
            return value
        raise ValueError(f"{value!r} is not a list of numbers: write ranges such as '0-3,8'")


MEMORY: Final = Memory()
#: No process starts in less than 1 MiB: a smaller bound is a unit that was forgotten, or a mistake.
MEMORY_BOUND: Final = Memory(least=1 << 20)
COUNT: Final = _Count()
WEIGHT: Final = Weight()
MICROSECONDS: Final = _Whole(
    0,
    2**44 - 1,
    "a number of microseconds",
    schema=json_schema("integer", examples=[50_000], minimum=0),
    unit=" us",
)
CPU: Final = _Cpu()
FLAG: Final = _Flag()
ID_LIST: Final = _IdList()
