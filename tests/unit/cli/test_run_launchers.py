"""`agentcgroup run` with launchers, reloaders and servers that start Python anew."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import until

_TOOL = """\
import subprocess
from langchain_core.tools import tool

@tool
def where() -> str:
    "Return the cgroup."
    command = "grep ^0:: /proc/self/cgroup"
    return subprocess.run(command, shell=True, capture_output=True, text=True).stdout
"""
_APP = _TOOL + "\nprint('CONTAINED' if '/call-' in where.invoke({}) else 'OUTSIDE')\n"
_LOST = "runs UNCONTAINED"


@pytest.fixture(autouse=True)
def app(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    for exporter in ("TRACES", "METRICS", "LOGS"):
        monkeypatch.setenv(f"OTEL_{exporter}_EXPORTER", "none")
    app = folder / "app.py"
    app.write_text(_APP)
    return app


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agentcgroup", "run", "--", *words],
        capture_output=True,
        text=True,
        check=False,
    )


#: The command opentelemetry-instrument.
_OPENTELEMETRY = "from opentelemetry.instrumentation.auto_instrumentation import run; run()"
_EXEC = "import os, sys; os.{}"
_ENV = "{**os.environ, 'PYTHONPATH': '/other'}"


@pytest.mark.parametrize(
    "words",
    [
        ("python", "app.py"),
        ("sh", "-c", "exec python app.py"),
        ("sh", "-c", "python app.py; exit $?"),
        ("env", "A=b", "python", "app.py"),
        ("python", "-c", _OPENTELEMETRY, "python", "app.py"),
        ("python", "-c", _EXEC.format("execvp('python', ['python', 'app.py'])")),
        (
            "python",
            "-c",
            "import os; os.environ.pop('PYTHONPATH')\n"
            + _EXEC.format("execv(sys.executable, [sys.executable, 'app.py'])"),
        ),
        ("python", "-c", _EXEC.format(f"execve(sys.executable, ['python', 'app.py'], {_ENV})")),
        ("python", "-c", _EXEC.format("execvpe(b'python', [b'python', b'app.py'], os.environb)")),
        ("python", "-c", "import subprocess; subprocess.run(['python', 'app.py'], check=True)"),
        ("python", "-m", "runpy", "app"),
    ],
    ids=lambda words: " ".join(words)[:60],
)
def test_a_program_behind_a_launcher_is_contained(words: tuple[str, ...]) -> None:
    done = _run(*words)
    assert (done.returncode, done.stdout) == (0, "CONTAINED\n"), done.stderr
    assert _LOST not in done.stderr


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_the_processes_of_multiprocessing_are_contained(folder: Path, method: str) -> None:
    (folder / "served.py").write_text(_TOOL + "\ndef serve():\n    print(where.invoke({}))\n")
    (folder / "server.py").write_text(
        "import multiprocessing, served\nif __name__ == '__main__':\n"
        f"    process = multiprocessing.get_context({method!r}).Process(target=served.serve)\n"
        "    process.start(); process.join(); raise SystemExit(process.exitcode)\n"
    )
    done = _run("python", "server.py")
    assert done.returncode == 0, done.stderr
    assert "/call-" in done.stdout
    assert _LOST not in done.stderr


def test_a_python_in_a_call_or_without_a_framework_imports_nothing(folder: Path) -> None:
    """A tool's Python children, and helpers of the program, start as without agentcgroup."""
    (folder / "app.py").write_text(
        "import subprocess, sys, agentcgroup\n"
        "code = 'import sys; print(\"agentcgroup\" in sys.modules, len(sys.meta_path))'\n"
        "def child(): print(subprocess.run([sys.executable, '-c', code], text=True, check=True,\n"
        "    capture_output=True).stdout, end='')\n"
        "child()\n"
        "with agentcgroup.call('tool'): child()\n"
    )
    done = _run("app.py")
    assert done.returncode == 0, done.stderr
    outside, inside = (line.split() for line in done.stdout.splitlines())
    assert outside[0] == inside[0] == "False"
    assert int(outside[1]) == int(inside[1]) + 1  # it waits for the import of a framework


@pytest.mark.parametrize(
    "words",
    [
        ("python", "-I", "app.py"),
        ("python", "-Wignore", "-X", "dev", "-E", "app.py"),
        ("sh", "-c", "python -I app.py"),
        ("env", "-u", "PYTHONPATH", "python", "app.py"),
        (
            "python",
            "-c",
            _EXEC.format("execvp('python', ['python', '-X', 'dev', '-BI', 'app.py'])"),
        ),
        ("true",),
    ],
    ids=lambda words: " ".join(words)[:60],
)
def test_a_program_that_is_lost_is_reported(words: tuple[str, ...]) -> None:
    done = _run(*words)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ("" if words == ("true",) else "OUTSIDE\n")
    assert done.stderr.count(_LOST) == 1, done.stderr
    assert "Fix: " in done.stderr


def test_a_lost_program_that_registers_itself_is_contained(app: Path) -> None:
    app.write_text("import agentcgroup; agentcgroup.register()\n" + _APP)
    done = _run("python", "-I", "app.py")
    assert (done.returncode, done.stdout) == (0, "CONTAINED\n"), done.stderr
    assert _LOST not in done.stderr


def test_what_watches_a_program_is_no_child_of_it_and_ends(folder: Path) -> None:
    """A program that waits for all of its children waits for no process of ours."""
    (folder / "app.py").write_text(
        "import os\ntry: os.waitpid(-1, 0)\nexcept ChildProcessError: print('no child')\n"
    )
    done = _run("python", "app.py")
    assert (done.returncode, done.stdout) == (0, "no child\n")
    assert _LOST not in done.stderr


def test_inside_a_call_it_says_that_the_outer_limits_hold() -> None:
    done = subprocess.run(
        [*(words := [sys.executable, "-m", "agentcgroup"]), "exec", "--", *words, "run", "app.py"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "CONTAINED\n"  # in the call of `exec`
    assert "runs inside a call of another run, whose limits hold" in done.stderr
    assert _LOST not in done.stderr


def test_a_wrong_configuration_stops_a_worker_too(folder: Path) -> None:
    """It becomes wrong after the start."""
    (folder / "agentcgroup.toml").write_text("")
    (folder / "launch.py").write_text(
        "import subprocess, sys\nopen('agentcgroup.toml', 'w').write('mode = 1')\n"
        "sys.exit(subprocess.run(['python', 'app.py']).returncode)\n"
    )
    done = _run("python", "launch.py")
    assert (done.returncode, done.stdout) == (2, "")
    assert "agentcgroup.toml:1: mode: " in done.stderr


_SERVED = (
    _TOOL
    + """
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": where.invoke({}).encode()})

def wsgi(environ, start_response):
    start_response("200 OK", [])
    return [where.invoke({}).encode()]
"""
)


@contextlib.contextmanager
def _serving(*words: str) -> Iterator[None]:
    server = subprocess.Popen(
        [sys.executable, "-m", "agentcgroup", "run", *words], start_new_session=True
    )
    try:
        yield
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(30)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bytes | None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=30) as answer:
            return bytes(answer.read())
    except OSError:
        return None


@pytest.mark.parametrize(
    "words",
    [
        ("-m", "uvicorn", "served:app", "--port", "{port}"),
        ("-m", "uvicorn", "served:app", "--port", "{port}", "--reload"),
        ("-m", "uvicorn", "served:app", "--port", "{port}", "--workers", "2"),
        ("-m", "gunicorn", "served:wsgi", "--bind", "127.0.0.1:{port}", "--workers", "2"),
        ("-m", "gunicorn", "served:wsgi", "--bind", "127.0.0.1:{port}", "--preload"),
        ("-m", "gunicorn", "served:wsgi", "--bind", "127.0.0.1:{port}", "-k", "gevent"),
        ("-m", "gunicorn", "served:wsgi", "--bind", "127.0.0.1:{port}", "-k", "gthread"),
    ],
    ids=lambda words: " ".join(word for word in words[1:] if "port" not in word),
)
def test_the_processes_of_a_server_are_contained(folder: Path, words: tuple[str, ...]) -> None:
    (folder / "served.py").write_text(_SERVED)
    port = _free_port()
    with _serving(*(word.format(port=port) for word in words)):
        said: bytes | None = None
        deadline = time.monotonic() + 90
        while said is None and time.monotonic() < deadline:
            time.sleep(0.2)
            said = _answers(port)
        assert said is not None
        assert b"/call-" in said


def test_the_workers_of_pytest_xdist_are_contained(folder: Path) -> None:
    (folder / "test_tool.py").write_text(
        _TOOL + "import pytest\n"
        "@pytest.mark.parametrize('number', range(4))\n"
        "def test_it(number, worker_id):\n"
        "    assert '/call-' in where.invoke({})\n"
        "    assert worker_id in ('gw0', 'gw1')\n"
    )
    done = _run(sys.executable, "-m", "pytest", "-n", "2", "test_tool.py")
    assert (done.returncode, "4 passed" in done.stdout) == (0, True), done.stdout
    assert _LOST not in done.stderr


def test_the_report_comes_while_a_lost_program_runs(folder: Path) -> None:
    (folder / "app.py").write_text("import time; time.sleep(60)\n")
    with (
        (folder / "stderr").open("w") as stderr,
        subprocess.Popen(
            [sys.executable, "-m", "agentcgroup", "run", "--", "python", "-I", "app.py"],
            stderr=stderr,
        ) as program,
    ):
        try:
            assert until(lambda: _LOST in (folder / "stderr").read_text(), 60)
            assert program.poll() is None
        finally:
            program.kill()
