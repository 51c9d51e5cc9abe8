"""The bodies: one that does next to nothing, one with a large result, one with a large array."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy

__all__ = ["TOOLS", "Tool"]


def trivial(number: int) -> int:
    """Do next to nothing."""
    return number + 1


def ten_megabytes() -> bytes:
    """Return 10 MB."""
    return b"x" * 10_000_000


def hundred_megabytes(array: Any) -> Any:
    """Change every item of an array of 100 MB and return it."""
    array += 1
    return array


@dataclass(frozen=True)
class Tool:
    """A body with its arguments.

    Attributes:
        title: its name in the table.
        body: the function.
        arguments: returns its arguments.
        read: reads all of the result, so that no part of the transfer happens after the clock.
        runs: factor for the number of runs; below 1 for bodies that take long.
    """

    title: str
    body: Callable[..., Any]
    arguments: Callable[[], tuple[Any, ...]]
    read: Callable[[Any], object]
    runs: float


TOOLS = {
    "trivial": Tool("trivial", trivial, lambda: (1,), lambda result: result, 1),
    "10 MB": Tool("returns 10 MB", ten_megabytes, tuple, len, 0.5),
    "100 MB": Tool(
        "takes and returns an array of 100 MB",
        hundred_megabytes,
        lambda: (numpy.zeros(12_500_000),),
        lambda result: result[::512].sum(),
        0.1,
    ),
}
