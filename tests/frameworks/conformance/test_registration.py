"""Imports that registering causes, and tracing that hooks the same methods."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

#: Modules whose import says that a framework has been imported.
_FRAMEWORKS = ("langchain_core", "autogen_core", "crewai")
_LOADED = f"print([name for name in {_FRAMEWORKS} if name in sys.modules])"


def _program(*arguments: str) -> str:
    """Run Python with spans switched on; return the last line it printed."""
    environment = {key: value for key, value in os.environ.items() if key != "OTEL_SDK_DISABLED"}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "NOT contained" not in done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("imported", "loaded"),
    [("sys", []), ("langchain_core.tools", ["langchain_core"]), ("autogen_core", ["autogen_core"])],
)
def test_registering_imports_no_framework(imported: str, loaded: list[str]) -> None:
    """With all installed, an app that imports one pays for one, before or after."""
    register = f"import sys, agentcgroup; agentcgroup.register(); import {imported}; {_LOADED}"
    after = f"import sys, {imported}, agentcgroup; agentcgroup.register(); {_LOADED}"
    assert _program("-c", register) == _program("-c", after) == repr(loaded)


@pytest.mark.parametrize("order", ["traced-first", "traced-last"])
@pytest.mark.parametrize("column", ["langchain-sync", "autogen-agent", "crewai-native"])
def test_tracing_in_either_order(column: str, order: str) -> None:
    """OpenInference and we hook the same methods: one record, one span, and the same answer.

    Once it is gone, which drops what was hooked after it, registering again puts ours back.
    """
    module = "tests.frameworks.conformance.instrumented"
    result: dict[str, Any] = json.loads(_program("-m", module, column, order))
    contained = {"answers": ["done", "hi"], "records": [["coder", "shell", "ok"]]}
    assert result["both"] == {**contained, "traced": 1}
    assert result["alone"] == {**contained, "traced": 0}
