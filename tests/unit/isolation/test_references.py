"""What the code of a function refers to, found without running it."""

from __future__ import annotations

import functools
import json
import json as renamed
import os.path
import subprocess
from collections import OrderedDict
from typing import Any

import pytest

from agentcgroup.isolation.references import references

RUN = "subprocess.run"


def direct() -> None:
    subprocess.run(["true"])


def chained() -> Any:
    return os.path.join("a"), json.decoder.JSONDecoder


def imports() -> None:
    from subprocess import run as start

    start(["true"])


def helped() -> None:
    direct()


def nested() -> Any:
    def inner() -> Any:
        return [lambda: subprocess.run(["true"])]

    return inner


def wrapped(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper() -> Any:
        return function()

    return wrapper


def defaulted(start: Any = subprocess.run) -> None:
    start(["true"])


class Tool:
    """A tool whose method calls another one."""

    def run(self) -> None:
        self.start()

    def start(self) -> None:
        direct()

    def __call__(self) -> None:
        direct()


def plain() -> Any:
    return renamed.dumps({})


@pytest.mark.parametrize(
    "function",
    [
        direct,
        imports,
        helped,
        nested,
        wrapped(direct),
        defaulted,
        functools.partial(functools.partial(helped)),
        Tool().run,
        Tool(),
    ],
)
def test_a_function_is_found_in_every_way_to_name_it(function: Any) -> None:
    assert RUN in references(function).functions
    assert references(function) is references(function)


def test_attributes_of_modules_are_found_and_libraries_are_not_read() -> None:
    found = references(chained)
    assert {"posixpath.join", "json.decoder.JSONDecoder"} <= found.functions
    assert {"path", "join", "decoder"} <= found.attributes
    assert references(plain).functions == {"json.dumps"}


def test_the_classes_of_held_objects_are_found() -> None:
    held: Any = OrderedDict()

    def holds() -> Any:
        return held

    assert {"collections.OrderedDict", "builtins.dict"} <= references(holds).kinds
    assert references(len) == (frozenset(),) * 3


def test_functions_that_call_each_other_end_the_search() -> None:
    def even(number: int) -> bool:
        return number == 0 or odd(number - 1)

    def odd(number: int) -> bool:
        return number != 0 and even(number - 1)

    assert any("odd" in name for name in references(even).functions)


class _Proxy:
    """Stands for an object of a context, as `flask.request` does, and there is no context."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(f"outside of a context: {name}")


PROXY = _Proxy()


class _Meta(type):
    @property
    def setting(cls) -> Any:
        raise RuntimeError


class Configured(metaclass=_Meta):
    def run(self) -> None:
        self.setting()  # type: ignore[attr-defined]
        subprocess.run(["true"])


def of_a_context() -> None:
    PROXY.read()  # type: ignore[attr-defined]
    subprocess.run(["true"])


def holding(proxy: Any) -> Any:
    def run(again: Any = PROXY) -> None:
        proxy.read(again)
        subprocess.run(["true"])

    return run


@pytest.mark.parametrize(
    "function", [of_a_context, holding(PROXY), Configured().run], ids=["global", "held", "class"]
)
def test_an_object_that_raises_ends_no_search(function: Any) -> None:
    assert RUN in references(function).functions
