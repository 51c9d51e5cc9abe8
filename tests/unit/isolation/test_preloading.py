"""Which modules the fork server may import; `count_fit` runs in a trial, here a child process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agentcgroup.isolation.preloading import without_unfit


@pytest.mark.parametrize(
    ("fit", "rest"),
    [
        (0, ["other"]),
        (1, ["other"]),
        (2, ["other"]),
        (4, []),
    ],
)
def test_submodules_of_an_unfit_module_are_not_tried(fit: int, rest: list[str]) -> None:
    names = ["package", "package.deep", "package.deep.er", "other"]
    assert without_unfit(names, fit) == rest


@pytest.mark.parametrize(
    ("unfit", "fit"),
    [
        (
            "import threading as t; t.Thread(target=t.Event().wait, daemon=True).start()",
            1,
        ),
        ("import os; opened = open(os.devnull)", 1),
        ("raise ImportError('only the app has what it needs')", 3),
        ("", 3),
    ],
)
def test_modules_are_fit_up_to_one_that_starts_a_thread_or_opens_a_file(
    tmp_path: Path, unfit: str, fit: int
) -> None:
    for name, code in {"first": "", "second": unfit, "third": ""}.items():
        (tmp_path / f"{name}.py").write_text(code)
    code = (
        "import sys; from agentcgroup.isolation.preloading import count_fit; "
        f"sys.path.insert(0, {str(tmp_path)!r}); print(count_fit(['first', 'second', 'third']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == fit


def test_the_telemetry_of_crewai_is_off_while_it_is_imported(tmp_path: Path) -> None:
    """It would start a thread, and each worker would import all of CrewAI anew."""
    (tmp_path / "package.py").write_text(
        "import os, threading as t\n"
        "if os.environ.get('CREWAI_DISABLE_TELEMETRY') != 'true':\n"
        "    t.Thread(target=t.Event().wait, daemon=True).start()\n"
    )
    code = (
        "import os, sys; from agentcgroup.isolation.preloading import count_fit; "
        f"sys.path.insert(0, {str(tmp_path)!r}); os.environ['CREWAI_DISABLE_TELEMETRY'] = 'no'; "
        "print(count_fit(['package']), os.environ['CREWAI_DISABLE_TELEMETRY'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1 no\n"
