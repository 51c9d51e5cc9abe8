"""A key of many parts, and deep nesting, are faults of the file, found at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentcgroup.config.loading import load
from agentcgroup.errors import ConfigError

Write = Callable[[str], str]


@pytest.fixture
def write(folder: Path) -> Write:
    def write(text: str) -> str:
        (folder / "agentcgroup.toml").write_text(text, encoding="utf-8")
        return "agentcgroup.toml"

    return write


_LONG = 50_000


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("mode = 'auto'\n" + ".".join("a" * _LONG) + " = 1\n", 2, "a key has more than 100 parts"),
        ("# a\n\n[" + ".".join("a" * _LONG) + "]\n", 3, "a key has more than 100 parts"),
        ("'a'.\"b\" . " * _LONG + "c = 1\n", 1, "a key has more than 100 parts"),
        ('x = """\n\n"""\n' + "a." * _LONG + "b = 1\n", 4, "a key has more than 100 parts"),
        ("x = " + "{a = " * 250 + "1" + "}" * 250 + "\n", None, "x: unknown key"),
        ("x = " + "[" * 250 + "1" + "]" * 250 + "\n", None, "x: unknown key"),
    ],
    ids=["key", "header", "quoted", "behind a string", "tables", "arrays"],
)
def test_a_key_of_many_parts_and_deep_nesting_are_told_at_once(
    write: Write, text: str, line: int | None, why: str
) -> None:
    path = write(text)
    with pytest.raises(ConfigError, match=why) as caught:
        load(path)
    assert line is None or caught.value.line == line


def test_dots_in_strings_and_comments_are_no_parts_of_a_key(folder: Path) -> None:
    dots = "a." * 500
    strings = ("'{}'", '"{}"', '"""\n{}\n"""', "'''{}'''")
    lines = [f"x{at} = {form.format(dots)}" for at, form in enumerate(strings)]
    text = "\n".join([f"# {dots}", "[tool.agentcgroup]", "mode = 'off'", "[other]", *lines, ""])
    Path("pyproject.toml").write_text(text, encoding="utf-8")
    assert load("pyproject.toml").mode == "off"


def test_a_mapping_that_is_nested_too_deeply_is_told() -> None:
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"a": deep}
    with pytest.raises(ConfigError, match="nested too deeply"):
        load({"limits": deep})
