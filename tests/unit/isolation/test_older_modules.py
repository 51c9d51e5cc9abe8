"""The fork server imports no module whose file is newer than the run, whoever names it."""

from __future__ import annotations

import gc
import importlib.util
import os
import py_compile
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import agentcgroup
from agentcgroup import Session
from agentcgroup.api import begin
from agentcgroup.isolation.channel import Channel
from agentcgroup.isolation.older_modules import among
from agentcgroup.isolation.protocol import LEARNED
from tests.support.nobody import AS_NOBODY
from tests.support.processes import until

#: Notes in which process it is imported.
_NOTES = "import os\nwith open({log!r}, 'a') as log: log.write(f'{{os.getpid()}} {name}\\n')\n"


class _Folder:
    """A folder of ``sys.path`` with modules that note where they run."""

    def __init__(self, path: Path) -> None:
        self.path, self.log = path, path / "log"
        self.log.touch()

    def write(self, file: str, more: str = "") -> None:
        target = self.path / file
        target.parent.mkdir(exist_ok=True)
        target.write_text(_NOTES.format(log=str(self.log), name=file) + more)

    def compile_other(self, file: str) -> None:
        """Write bytecode with another content that passes for that of the file."""
        source = self.path / file
        before, size = source.stat(), len(source.read_text())
        other = self.path / "other"
        other.write_text("evil = True\n".ljust(size, "#"))
        os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
        py_compile.compile(str(other), importlib.util.cache_from_source(str(source)), str(source))

    def imported_by(self, pid: int) -> list[str]:
        lines = [line.split() for line in self.log.read_text().splitlines()]
        return [name for one, name in lines if int(one) == pid]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Folder:
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = _Folder(tmp_path)
    folder.write("kept.py")
    folder.write("package/__init__.py")
    folder.write("package/kept.py")
    folder.write("depends.py", "import dependency\n")
    monkeypatch.syspath_prepend(str(tmp_path / "earlier"))
    time.sleep(0.02)  # the kernel's time of a change is that of its last tick
    return folder


@pytest.fixture
def session(folder: _Folder) -> Iterator[Session]:
    yield begin({"rules": [{"tool": "*", "isolation": "process"}]})
    agentcgroup.unregister()


def _forge(names: str) -> int:
    """Send names as learned over the worker's channel; return the pid of the fork server."""
    (channel,) = (one for one in gc.get_objects() if type(one) is Channel)
    channel.send(LEARNED, [names.encode()])
    return os.getppid()


def _learn(session: Session, *names: str) -> int:
    fork_server = agentcgroup.isolate("forge")(_forge)("\n".join(names))
    _ = session.records  # its worker has left by then, and all that it sent is read
    assert session._services.workers().wait_preloaded(60)
    return fork_server


def test_what_is_older_is_imported(session: Session, folder: _Folder) -> None:
    fork_server = _learn(session, "kept", "package.kept", "package")
    assert until(lambda: len(folder.imported_by(fork_server)) == 3)


@pytest.mark.parametrize("backdated", [False, True])
@pytest.mark.parametrize(
    ("planted", "reported"),
    [
        ("evil.py", "evil"),
        ("kept.py", "kept"),
        ("earlier/kept.py", "kept"),
        ("package/evil.py", "package.evil"),
        ("evil/__init__.py", "evil.kept"),
        ("dependency.py", "depends"),
    ],
)
def test_what_a_tool_has_written_is_not(
    session: Session, folder: _Folder, planted: str, reported: str, backdated: bool
) -> None:
    """Also before the one of that name, and where a module of the program imports it."""
    folder.write(planted, "evil = 1\n")
    if backdated:
        os.utime(folder.path / planted, (1, 1))
    _learn(session, reported)
    _learn(session, "package")  # carried out after it
    imported = [line.split()[1] for line in folder.log.read_text().splitlines()]
    assert "package/__init__.py" in imported
    assert planted not in imported


def test_bytecode_that_a_tool_has_written_is_not_read(session: Session, folder: _Folder) -> None:
    folder.compile_other("kept.py")
    command = [sys.executable, "-c", "import kept; print(kept.evil)"]
    done = subprocess.run(command, cwd=folder.path, capture_output=True, text=True)
    assert done.stdout == "True\n"  # Python itself takes it
    fork_server = _learn(session, "kept")
    assert folder.imported_by(fork_server) == ["kept.py"]


def test_names_of_no_module_are_refused(session: Session) -> None:
    names = [
        *("", ".", "..", "os.", ".os", "os..path", "no such", "kept;evil", "kept\0", "a" * 10_000),
        *("\udc80", "kept.__class__", ".".join("a" * 5000), "__main__.kept", "/etc/passwd"),
    ]
    assert among(names, time.time()) == []
    assert among(["kept", "package.kept", "json.decoder", "sys", "zipimport"], time.time()) == [
        *("kept", "package.kept", "json.decoder", "sys", "zipimport")
    ]
    assert "kept" not in sys.modules


#: A program into whose folders a tool writes modules with names of the standard library, before the
#: next fork server starts.
_PROGRAM = """
import os, signal, sys, time
import agentcgroup

@agentcgroup.isolate(isolation="process")
def fork_server():
    return os.getppid()

def replaced(first):
    over = time.monotonic() + 60
    while time.monotonic() < over:
        try:
            if (second := fork_server()) != first:
                return second
        except agentcgroup.LimitExceeded:
            continue

if __name__ == "__main__":
    first = fork_server()
    for folder in sys.argv[1:]:
        for name in ("json", "socket", "select", "gc", "shutil", "sitecustomize", "tempfile"):
            with open(f"{folder}/{name}.py", "w") as file:
                file.write("import os; os.write(2, b'EVIL'); raise ImportError")
    os.kill(first, signal.SIGKILL)
    second = replaced(first)
    print("again", fork_server() == second)
"""


def test_a_fork_server_starts_without_the_folders_of_the_program(tmp_path: Path) -> None:
    """A tool writes json.py beside the script and in PYTHONPATH, and kills the fork server."""
    program, path = tmp_path / "program", tmp_path / "path"
    program.mkdir()
    path.mkdir()
    (program / "script.py").write_text(_PROGRAM)
    done = subprocess.run(
        [sys.executable, str(program / "script.py"), str(program), str(path)],
        cwd=program,
        env={**os.environ, "PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.stdout == "again True\n", done.stderr
    assert "EVIL" not in done.stderr


def test_the_path_and_the_environment_are_the_apps(
    session: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    path, pythonpath = agentcgroup.isolate("look")(_look)()
    assert path == sys.path
    assert pythonpath == str(tmp_path)


def _look() -> tuple[list[str], str | None]:
    return sys.path, os.environ.get("PYTHONPATH")


#: Prints who owns a folder in /proc of a fork server and of its worker.
_OWNERS = """
import os
import agentcgroup

@agentcgroup.isolate(isolation="process")
def owners():
    return os.stat(f"/proc/{os.getppid()}/fd").st_uid, os.stat("/proc/self/fd").st_uid

print(*owners())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_no_process_of_the_user_may_trace_the_fork_server() -> None:
    """The kernel gives root what is not dumpable (proc_pid(5)); a worker is as without us."""
    done = subprocess.run(
        [*AS_NOBODY, sys.executable, "-c", _OWNERS], capture_output=True, text=True, timeout=100
    )
    assert done.stdout == "0 65534\n", done.stderr
