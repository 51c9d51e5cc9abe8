"""A framework of another distribution: the rows of the conformance table that it can have."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from agentcgroup import Session
from tests.frameworks.conformance import tools
from tests.frameworks.conformance.driver import Driver
from tests.frameworks.conformance.test_conformance import (
    test_any_argument_name,
    test_async_tool,
    test_background,
    test_cancelled,
    test_exception,
    test_identity_fault,
    test_isolated_async_tool,
    test_isolated_timeout,
    test_isolated_tool,
    test_nested_agent,
    test_parallel,
    test_register_twice,
    test_retry,
    test_state,
    test_streaming,
    test_subprocess_tool,
    test_sync_tool,
    test_timeout,
    test_unregister,
    test_unshippable,
)
from tests.frameworks.toy import toyframe, toyframe_agentcgroup

#: The rows, which pytest collects here.
__all__ = [
    "test_any_argument_name",
    "test_async_tool",
    "test_background",
    "test_cancelled",
    "test_exception",
    "test_identity_fault",
    "test_isolated_async_tool",
    "test_isolated_timeout",
    "test_isolated_tool",
    "test_nested_agent",
    "test_parallel",
    "test_register_twice",
    "test_retry",
    "test_state",
    "test_streaming",
    "test_subprocess_tool",
    "test_sync_tool",
    "test_timeout",
    "test_unregister",
    "test_unshippable",
]


def test_what_the_framework_counts_on_a_tool_is_counted(driver: Driver, session: Session) -> None:
    """In an isolated call the stand-in runs the body; all else is the tool's own."""
    where = toyframe.Tool(tools.isolated_where)
    agent = toyframe.Agent("coder", [[("isolated_where", {"crash": False})], "done"], [where])
    assert f"pid {os.getpid()}\n" not in driver.run(agent).answers[0].text
    assert where.uses == 1


def test_doctor_reports_on_it_and_on_its_tools(distribution: Path) -> None:
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": f"{distribution}{os.pathsep}{root}"}
    (distribution / "toyapp.py").write_text(
        f"from {toyframe.__name__} import Tool\n"
        "def add(a, b):\n"
        "    return a + b\n"
        "add_tool = Tool(add)\n"
    )

    def doctor(*words: str) -> Any:
        command = [sys.executable, "-m", "agentcgroup", "doctor", "--json", *words]
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, cwd=distribution
        )
        return json.loads(done.stdout)

    found = {one["what"]: one for one in doctor()["findings"]}["toyframe"]
    assert (found["state"], found["detail"]) == ("yes", "toyframe 1.0")
    (tool,) = doctor("--app", "toyapp")["tools"]
    assert [tool[key] for key in ("tool", "framework", "body", "can")] == [
        "add",
        "toyframe",
        "function",
        True,
    ]


def test_the_adapter_imports_nothing_of_core_but_the_stable_module() -> None:
    source = ast.parse(Path(toyframe_agentcgroup.__file__).read_text())
    imported = {node.module for node in ast.walk(source) if isinstance(node, ast.ImportFrom)}
    assert {name for name in imported if name and name.startswith("agentcgroup")} == {
        "agentcgroup.adapter"
    }
    assert not any(isinstance(node, ast.Import) for node in ast.walk(source))
