"""Objects that code compares by identity are the same objects on both sides."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from langgraph._internal._typing import MISSING

import agentcgroup
from agentcgroup import Session
from agentcgroup.api import begin
from agentcgroup.isolation import pickling

UNSET = object()


class Kind:
    """A class with constants of its own."""

    def __init__(self, name: str = "") -> None:
        self.name = name


NEVER, ALWAYS = Kind("never"), Kind("always")


@pytest.fixture
def session() -> Iterator[Session]:
    yield begin({"rules": [{"tool": "*", "isolation": "process"}]})
    agentcgroup.unregister()


#: Of the standard library, of packages, and of the user.
SENTINELS = [
    UNSET,
    NEVER,
    ALWAYS,
    MISSING,
    dataclasses.MISSING,
    inspect.Parameter.empty,
    openai.NOT_GIVEN,
    NotImplemented,
    ...,
]


@agentcgroup.isolate
def same(things: list[Any]) -> tuple[list[bool], list[Any]]:
    return [one is two for one, two in zip(things, SENTINELS, strict=True)], things


def test_a_module_level_object_is_itself_there_and_back(session: Session) -> None:
    there, back = same(SENTINELS)
    assert there == [True] * len(SENTINELS)
    assert [one is two for one, two in zip(back, SENTINELS, strict=True)] == there


def test_a_changed_object_and_a_new_one_are_sent_as_they_are(session: Session) -> None:
    changed = Kind("never")
    (made, unnamed), _ = echo(changed, object()), None
    assert made is not NEVER
    assert made.name == "never"
    assert type(unnamed) is object

    @agentcgroup.isolate
    def change(kind: Kind) -> Kind:
        kind.name = "changed"
        return kind

    assert change(NEVER).name == "changed"
    assert NEVER.name == "never"


@agentcgroup.isolate
def echo(*things: Any) -> Any:
    return things


def test_reducers_of_libraries_hold_also_those_that_come_later() -> None:
    class Later:
        pass

    first = pickling.unpack(pickling.pack([Later(), 1])[0][0])[0]
    assert isinstance(first, Later)
    import copyreg

    copyreg.pickle(Later, lambda _: (int, ("7",)))  # type: ignore[arg-type]
    try:
        for extra in (1, lambda: None):  # by the plain pickler, and by cloudpickle
            assert pickling.unpack(pickling.pack([Later(), extra])[0][0])[0] == 7
    finally:
        copyreg.dispatch_table.pop(Later)


def test_an_object_of_the_users_script_is_itself_there_and_back(folder: Path) -> None:
    (folder / "app.py").write_text(
        """\
import sys
import agentcgroup
from dataclasses import dataclass
from enum import Enum

UNSET = object()

class Color(Enum):
    RED = 1

class Never:
    pass

NEVER = Never()

@agentcgroup.isolate(isolation="process")
def tool(value, color, never, default=UNSET):
    assert __name__ == "__main__" and "app.py" not in sys.argv[0]
    return value is UNSET, default is UNSET, color is Color.RED, never is NEVER, UNSET, never, color

found = tool(UNSET, Color.RED, NEVER)
print(found[:4], found[4] is UNSET, found[5] is NEVER, found[6] is Color.RED)
"""
    )
    done = subprocess.run([sys.executable, "app.py"], capture_output=True, text=True, check=True)
    assert done.stdout == "(True, True, True, True) True True True\n", done.stderr
