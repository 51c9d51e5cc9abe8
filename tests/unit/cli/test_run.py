"""`agentcgroup run`: real programs without a line of agentcgroup."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import zipapp
from pathlib import Path
from typing import Any

import pytest

#: Prints how Python was started.
_SELF = """\
import json, os, sys
print(json.dumps({
    "argv": sys.argv,
    "path": sys.path,
    "pythonpath": os.environ.get("PYTHONPATH"),
    "registered": "agentcgroup" in sys.modules,
    "name": __name__,
}))
"""

_APP = """\
import subprocess, sys
from langchain_core.tools import tool

@tool
def shell(command: str) -> str:
    "Run a command."
    return subprocess.run(command, shell=True, capture_output=True, text=True).stdout

for word in sys.argv[1:]:
    asked = {"type": "tool_call", "name": "shell", "args": {"command": f"echo {word}"}, "id": word}
    print(shell.invoke(asked).content, end="")
sys.exit(len(sys.argv) - 1)
"""


@pytest.fixture(autouse=True)
def no_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove PYTHONPATH from the environment, unless a test sets it."""
    monkeypatch.delenv("PYTHONPATH", raising=False)


def _run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agentcgroup", "run", *words],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def _seen(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    assert seen.pop("registered") is True
    # Python processes that a launcher starts need the folder.
    ours, _, rest = seen["pythonpath"].partition(os.pathsep)
    assert os.path.basename(ours) == "autoload"
    seen["pythonpath"] = rest or None
    return seen


def _plain(*words: str, **environment: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=True,
    )
    seen: dict[str, Any] = json.loads(done.stdout)
    assert seen.pop("registered") is False
    return seen


@pytest.mark.parametrize("pythonpath", [None, "", "lib", "lib::/nowhere"])
def test_a_script_sees_what_it_would_without(folder: Path, pythonpath: str | None) -> None:
    """Its arguments, options and sys.path are the same; PYTHONPATH has one folder more."""
    (folder / "app.py").write_text(_SELF)
    words = ("app.py", "--config", "its-own", "-m", "--help")
    environment = {} if pythonpath is None else {"PYTHONPATH": pythonpath}
    seen, plain = _seen(_run(*words, **environment)), _plain(*words, **environment)
    if pythonpath == "":  # for Python, empty and unset are the same
        plain["pythonpath"] = None
    assert seen == plain
    assert seen["argv"] == list(words)


def test_a_module_a_folder_a_zipapp_and_a_command(folder: Path) -> None:
    """All forms that `python` accepts work, and so does `python` itself."""
    package = folder / "package"
    package.mkdir()
    (package / "__main__.py").write_text(_SELF)
    zipapp.create_archive(package, "app.pyz")
    assert _seen(_run("-m", "package", "-x")) == _plain("-m", "package", "-x")
    assert _seen(_run("package", "-x")) == _plain("package", "-x")
    assert _seen(_run("app.pyz", "-x")) == _plain("app.pyz", "-x")
    assert _seen(_run("--", sys.executable, "package", "-x")) == _plain("package", "-x")
    assert _seen(_run(sys.executable, "-c", _SELF, "-x")) == _plain("-c", _SELF, "-x")


def test_every_tool_call_is_recorded_and_the_status_is_the_programs(folder: Path) -> None:
    """The records of a LangChain app without a line of agentcgroup have its limits."""
    (folder / "app.py").write_text(_APP)
    (folder / "limits.toml").write_text('records = "records.jsonl"\n[limits.call]\npids_max = 99\n')
    done = _run("--config", "limits.toml", "app.py", "one", "two", "three")
    assert (done.returncode, done.stdout) == (3, "one\ntwo\nthree\n"), done.stderr
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    assert [record["tool_call_id"] for record in records] == ["one", "two", "three"]
    assert {record["framework"] for record in records} == {"langchain"}
    assert {record["limits"]["pids_max"] for record in records} == {99}
    assert all(record["cgroup"] for record in records)


def test_signals_reach_the_program(folder: Path) -> None:
    """The program replaces `agentcgroup`: it has the same pid."""
    (folder / "app.py").write_text(
        "import os, signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        "print(os.getpid(), flush=True)\n"
        "while True: signal.pause()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-m", "agentcgroup", "run", "app.py"], stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        assert int(program.stdout.readline()) == program.pid
        program.send_signal(signal.SIGTERM)
        assert program.wait(60) == 7


def test_the_users_sitecustomize_runs_too(folder: Path) -> None:
    """And the program imports it by that name."""
    (folder / "lib").mkdir()
    (folder / "lib" / "sitecustomize.py").write_text("HERE = 'the user'\n")
    (folder / "app.py").write_text("import sitecustomize, sys\nprint(sitecustomize.HERE)\n")
    done = _run("app.py", PYTHONPATH="lib")
    assert (done.returncode, done.stdout) == (0, "the user\n"), done.stderr


def test_a_broken_sitecustomize_of_the_user_leaves_the_program_contained(folder: Path) -> None:
    """Python prints its error, goes on, and agentcgroup is registered."""
    (folder / "lib").mkdir()
    (folder / "lib" / "sitecustomize.py").write_text("import not_there\n")
    (folder / "app.py").write_text(_SELF)
    done = _run("app.py", PYTHONPATH="lib")
    assert _seen(done)["argv"] == ["app.py"]
    assert "ModuleNotFoundError: No module named 'not_there'" in done.stderr


def test_a_config_error_is_reported_before_the_program_starts(folder: Path) -> None:
    """The status is 2, as for wrong options."""
    (folder / "app.py").write_text("print('started')")
    (folder / "bad.toml").write_text("[limits.call]\nmemory_mx = 1\n")
    done = _run("--config", "bad.toml", "app.py")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "agentcgroup: bad.toml:2: limits.call.memory_mx: unknown key; did you mean memory_max?\n"
    )


def test_enforce_refuses_to_start_where_nothing_can_be_enforced(folder: Path) -> None:
    """It prints one line, the status is 2, and the program does not start."""
    (folder / "app.py").write_text("print('started')")
    (folder / "agentcgroup.toml").write_text('mode = "enforce"\n')
    done = _run("app.py", AGENTCGROUP_ROOT="/tmp")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith('agentcgroup: mode = "enforce", but not everything can be')
    assert "/tmp" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_python_without_agentcgroup_refuses(folder: Path) -> None:
    """It prints what to do, and does not run the program uncontained."""
    # An empty virtualenv, without the package.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "bare"], check=True)
    (folder / "app.py").write_text("print('started')")
    done = _run("bare/bin/python", "app.py")
    assert (done.returncode, done.stdout) == (2, "")
    assert "it is not installed for" in done.stderr
    assert "bare/bin/python" in done.stderr


def test_a_program_that_cannot_be_started_is_reported(folder: Path) -> None:
    """A missing script, a missing command, a file that is not executable: as in a shell."""
    (folder / "data.txt").write_text("")
    for words, status, said in (
        (("missing.py",), 127, "cannot start 'missing.py': No such file or directory"),
        (("missing-command", "x"), 127, "cannot start 'missing-command': No such file"),
        (("./data.txt",), 126, "cannot start './data.txt': Permission denied"),
        (("",), 127, "cannot start '': No such file or directory"),
        ((), 2, "Missing argument"),
    ):
        done = _run(*words)
        assert (done.returncode, done.stdout) == (status, "")
        assert said in done.stderr
