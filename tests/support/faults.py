"""Faults to put into the code under test."""

from __future__ import annotations

from typing import Any, NoReturn

import pytest

__all__ = ["break_function"]


def break_function(monkeypatch: pytest.MonkeyPatch, function: Any) -> None:
    """Have a plain function raise in whatever place a reference to it is already kept."""

    def fault(*_: Any, **__: Any) -> NoReturn:
        raise RuntimeError("no names today")

    monkeypatch.setattr(function, "__code__", fault.__code__)
