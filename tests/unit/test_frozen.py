"""A frozen program: its executable is the program itself, and no helper of ours may start it."""

from __future__ import annotations

import stat
import subprocess
import sys
import zipapp
from pathlib import Path

import pytest

from agentcgroup import interpreter

#: What a frozen program runs: `sys.executable` is the program, whatever its arguments are. This one
#: counts its starts.
FROZEN = """#!{python}
import os, sys
with open("starts", "a") as starts:
    starts.write("started " + " ".join(sys.argv[1:]) + chr(10))
sys.frozen, sys.executable = True, os.path.abspath(__file__)
import agentcgroup
from langchain_core.tools import tool

@tool
def load(n: int) -> int:
    "Load."
    return n + os.getpid()

def main(config):
    try:
        session = agentcgroup.register(config=config)
    except agentcgroup.AgentCgroupError as error:
        sys.exit(str(error))
    print(load.invoke({{"n": 4}}) - os.getpid())
    @agentcgroup.isolate(isolation="process")
    def again():
        return os.getpid()
    print(again() == os.getpid())
    session.on_event(print)
    print([record.isolation for record in session.records])
    session.close()

main({config!r})
"""
RULES = [{"tool": "load", "isolation": "process"}]


def _run(folder: Path, **config: object) -> subprocess.CompletedProcess[str]:
    program = folder / "app"
    program.write_text(FROZEN.format(python=sys.executable, config=config))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return subprocess.run([str(program)], capture_output=True, text=True, check=False, timeout=100)


@pytest.mark.parametrize("monitor", ["off", "auto"])
def test_a_frozen_program_starts_once(folder: Path, monitor: str) -> None:
    done = _run(folder, rules=RULES, monitor={"backend": monitor})
    assert done.returncode == 0, done.stderr
    assert done.stdout == "4\nTrue\n['inline', 'inline']\n"
    assert (folder / "starts").read_text() == "started \n"
    assert (
        done.stderr.count('not enforced here: isolation = "process" (of config=): this program is')
        == 1
    )


def test_a_worker_that_only_code_asks_for_is_told_too(folder: Path) -> None:
    done = _run(folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "starts").read_text() == "started \n"
    assert done.stderr.count('isolation = "process" (of call()): this program is frozen') == 1


def test_enforce_refuses_what_a_frozen_program_cannot_do(folder: Path) -> None:
    done = _run(folder, mode="enforce", rules=RULES)
    assert done.returncode == 1
    assert 'isolation = "process" (of config=): this program is frozen' in done.stderr
    assert (folder / "starts").read_text() == "started \n"


def test_a_program_frozen_without_the_adapters_says_how_to_freeze_it(folder: Path) -> None:
    (folder / "app.py").write_text(
        "import sys\nsys.modules['agentcgroup.adapters'] = None\n"
        "import agentcgroup\nagentcgroup.register()\n"
    )
    done = subprocess.run(
        [sys.executable, "app.py"], capture_output=True, text=True, check=False, timeout=100
    )
    assert "--collect-all agentcgroup (PyInstaller)" in done.stderr
    assert "ConfigError" in done.stderr


def test_only_a_python_runs_helper_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("/usr/bin/python3.11", "/opt/pypy3.10/bin/pypy3", "/venv/bin/python"):
        monkeypatch.setattr(sys, "executable", name)
        assert interpreter.python() == name
    for name in ("/usr/sbin/uwsgi", "/app/dist/app", "", None):
        monkeypatch.setattr(sys, "executable", name)
        with pytest.raises(OSError, match="is no Python"):
            interpreter.python()
    monkeypatch.undo()
    monkeypatch.setitem(vars(interpreter), "__compiled__", object())  # as Nuitka does
    assert "is frozen" in (interpreter.no_python() or "")


def test_a_zipapp_runs_its_tools_in_workers(folder: Path) -> None:
    """Its executable is Python, and the worker imports from the archive."""
    package = folder / "package"
    package.mkdir()
    (package / "tools.py").write_text("import os\ndef pid():\n    return os.getpid()\n")
    (package / "__main__.py").write_text(
        "import agentcgroup, os, tools\n"
        "session = agentcgroup.register(config={})\n"
        "run = agentcgroup.isolate(isolation='process')(tools.pid)\n"
        "print(run() != os.getpid(), session.records[-1].isolation)\n"
    )
    zipapp.create_archive(package, "app.pyz")
    done = subprocess.run(
        [sys.executable, "app.pyz"], capture_output=True, text=True, check=False, timeout=100
    )
    assert (done.returncode, done.stdout) == (0, "True process\n"), done.stderr
