"""The examples, run as a reader runs them: each ends, its model adapts to what it is told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

MEMORY = "its processes reached the memory limit of 64 MiB (memory_max)"
TIME = "it reached its time limit of 5s (timeout)"

#: Of each: the call that is stopped, why, what the model answers when it has adapted, and how its
#: calls ended.
STORIES = {
    "langchain_coder.py": (
        "run_tests",
        MEMORY,
        "the tests pass",
        ["oom", "ok", "ok", "ok", "ok"],
    ),
    "crewai_analyst.py": ("average", MEMORY, "worth 49.5 on average", ["oom", "ok"]),
    "autogen_researcher.py": ("search", TIME, "PSI measures it", ["timeout", "ok"]),
}


def _run(example: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, EXAMPLES / example],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
    )


@pytest.mark.parametrize("example", STORIES)
def test_an_example_tells_its_story(example: str, tmp_path: Path) -> None:
    """A call meets its limit, the model is told which, does it another way, and comes to an end."""
    stopped, limit, answer, outcomes = STORIES[example]
    done = _run(example, CREWAI_STORAGE_DIR=str(tmp_path), TMPDIR=str(tmp_path))

    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if line.startswith("model is told: ")]
    assert told[0].startswith(f"model is told: Tool '{stopped}' was stopped")
    assert limit in told[0]
    assert "model answers: " in done.stdout
    assert answer in done.stdout
    records = done.stdout.splitlines()[-len(outcomes) :]
    assert [line.split()[2] for line in records] == outcomes
    assert not [left for left in tmp_path.iterdir() if left.name.startswith(("coder", "analyst"))]


@pytest.mark.parametrize(
    ("example", "model"),
    [("langchain_coder.py", "openai:gpt-5"), ("autogen_researcher.py", "gpt-5")],
)
def test_a_real_model_without_its_package_says_what_to_install(
    example: str, model: str, tmp_path: Path
) -> None:
    """One clear line, no traceback, where the model's own package is not installed."""
    for package in ("openai", "langchain_openai"):
        (tmp_path / f"{package}.py").write_text(f"raise ImportError('No module named {package}')")
    done = _run(example, AGENTCGROUP_EXAMPLE_MODEL=model, PYTHONPATH=str(tmp_path))

    assert done.returncode == 1
    assert f"AGENTCGROUP_EXAMPLE_MODEL={model} cannot be used" in done.stderr
    assert "pip install" in done.stderr
    assert "Traceback" not in done.stderr
