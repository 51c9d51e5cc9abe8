"""Faults to put into the code under test, and into its process."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest

__all__ = ["break_function", "no_descriptor_left"]


def break_function(monkeypatch: pytest.MonkeyPatch, function: Any) -> None:
    """Have a plain function raise in whatever place a reference to it is already kept."""

    def fault(*_: Any, **__: Any) -> NoReturn:
        raise RuntimeError("no names today")

    monkeypatch.setattr(function, "__code__", fault.__code__)


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Let this process open no further file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.dup(0)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 1, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in taken:
            os.close(fd)
