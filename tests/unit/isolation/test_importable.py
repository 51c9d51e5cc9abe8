"""A tool of a module that only the app has runs in a worker all the same."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import agentcgroup
from agentcgroup import Session

SOURCE = """
import os

class Answer:
    def __init__(self, text):
        self.text = text

def helper(text):
    return Answer(text + " in " + str(os.getpid()))

def tool(text):
    return helper(text)
"""


@pytest.fixture
def session() -> Iterator[Session]:
    yield agentcgroup.register("langchain", config={})
    agentcgroup.unregister()


def _from_file(name: str, path: Path) -> Any:
    """Load a module as servers do."""
    path.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _works(module: Any) -> None:
    import os

    answer = agentcgroup.isolate("tool", isolation="process")(module.tool)("made")
    assert type(answer) is module.Answer
    assert answer.text.startswith("made in ")
    assert answer.text != f"made in {os.getpid()}"


def test_a_module_from_a_file_under_a_name_that_no_finder_knows(
    session: Session, tmp_path: Path
) -> None:
    _works(_from_file("server__graphs__agent_py", tmp_path / "agent.py"))


def test_a_module_from_a_file_under_the_name_of_another_module(
    session: Session, tmp_path: Path
) -> None:
    before = sys.modules.pop("colorsys", None)
    try:
        _works(_from_file("colorsys", tmp_path / "colorsys.py"))
    finally:
        del sys.modules["colorsys"]
        if before is not None:
            sys.modules["colorsys"] = before


def test_a_module_below_a_package_that_is_none(session: Session, tmp_path: Path) -> None:
    _works(_from_file("graphs.support.agent", tmp_path / "agent.py"))


def test_a_module_made_from_text(session: Session) -> None:
    module = types.ModuleType("made_from_text")
    sys.modules["made_from_text"] = module
    exec(SOURCE, module.__dict__)
    _works(module)
