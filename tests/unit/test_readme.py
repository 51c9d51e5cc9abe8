"""Every command and every block of code in README runs as written."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def _commands() -> list[str]:
    lines = "\n".join(_blocks("sh")).splitlines()
    inline = re.findall(r"`((?:agentcgroup|make) [^`]+)`", README)
    return sorted({line.partition(" #")[0].strip() for line in [*lines, *inline]} - {""})


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Make a folder with the files that README's commands need."""
    (tmp_path / "agentcgroup.toml").write_text(_blocks("toml")[0])
    (tmp_path / "app.py").write_text("import subprocess; print('app ran')")
    (tmp_path / "myapp.py").write_text("def load_csv(path: str) -> str: ...\ntools = [load_csv]")
    (tmp_path / "Makefile").write_text("test:\n\t@echo tested\n")
    return tmp_path


@pytest.mark.parametrize("command", _commands())
def test_every_command_runs(project: Path, command: str) -> None:
    """The command runs as written, in a project with README's own configuration."""
    words = shlex.split(command)
    if words[0] == "make":
        # CI runs the targets; this test only looks for them.
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert words[1] in targets
    elif words[:2] == ["pip", "install"]:
        name, extra = words[2].rstrip("]").split("[")
        assert extra in (importlib.metadata.metadata(name).get_all("Provides-Extra") or [])
    else:
        if words[1:3] == ["config", "init"]:
            (project / "agentcgroup.toml").unlink()
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            words, cwd=project, capture_output=True, text=True, env={**os.environ, "PATH": path}
        )
        # doctor's status is 1 on a machine that does not enforce everything.
        assert done.returncode in ((0, 1) if words[1] == "doctor" else (0,)), done.stderr


def test_the_config_is_valid_and_is_what_the_text_says(project: Path) -> None:
    """The limits of the first block are valid; a rule overrides its table key by key."""
    from agentcgroup.config.loading import load
    from agentcgroup.config.policy import Resolver

    resolver = Resolver(load(project / "agentcgroup.toml"))
    policy = resolver.call("langchain", "coder-1", "run_tests")
    assert policy.limits.memory_max == 3 << 30
    assert policy.limits.pids_max == 256
    assert policy.timeout == 600


def test_the_rules_are_valid(project: Path) -> None:
    """The other blocks are configurations, too."""
    from agentcgroup.config.loading import load
    from agentcgroup.config.policy import Resolver

    (project / "agentcgroup.toml").write_text("\n".join(_blocks("toml")[1:]))
    resolver = Resolver(load(project / "agentcgroup.toml"))
    assert resolver.call("langchain", None, "start_browser").background == "keep"
    policy = resolver.call("langchain", None, "load_csv")
    assert policy.isolation == "process"
    assert policy.limits.memory_max == 512 << 20


def test_the_python_runs(project: Path) -> None:
    """All Python blocks, one after the other, are one program."""
    (project / "agentcgroup.toml").unlink()
    code = "import subprocess\n" + "\n".join(_blocks("python"))
    subprocess.run([sys.executable, "-c", code], cwd=project, check=True)
