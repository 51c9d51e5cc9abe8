"""Spawns in a call beyond their placement: errors, retries, real forks, uninstall."""

from __future__ import annotations

import ast
import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentcgroup import _native, propagation, scope, spawn
from agentcgroup.cgroup import Cgroup
from agentcgroup.errors import CgroupUnavailable, LimitExceeded
from agentcgroup.spawn.native_backend import NativeBackend
from agentcgroup.spawn.python_backend import PythonBackend
from tests.support.processes import SOON, children, until
from tests.support.spawn_modes import MODES, run_python

CASES = str(Path(__file__).parents[2] / "cases")


class Call:
    """A `scope.SpawnTarget` that returns the given cgroups in turn, and then the last one."""

    def __init__(self, *boxes: Cgroup | None) -> None:
        self.boxes = list(boxes)
        self.failed: list[OSError | None] = []
        self.ended: list[int | None] = []

    over = False

    def background(self) -> Call:
        return self

    def note_helpers(self) -> None:
        pass

    def begin_spawn(self, failed: OSError | None = None) -> int | None:
        self.failed.append(failed)
        box = self.boxes.pop(0) if len(self.boxes) > 1 else self.boxes[0]
        return None if box is None else box.fd

    def end_spawn(self, pid: int | None) -> None:
        self.ended.append(pid)

    def note_child(self, pid: int) -> None:
        pass


@pytest.fixture
def installed() -> Iterator[None]:
    propagation.install()
    spawn.install()
    yield
    spawn.uninstall()
    propagation.uninstall()


@contextlib.contextmanager
def running(call: Call) -> Iterator[Call]:
    token = scope.current.set(call)
    try:
        yield call
    finally:
        scope.current.reset(token)


def cgroup_of(pid: int | str) -> str:
    with open(f"/proc/{pid}/cgroup", encoding="ascii") as lines:
        return next(os.path.basename(line.strip()) for line in lines if line.startswith("0::"))


@pytest.fixture
def gone(box: Cgroup) -> Cgroup:
    """Return a cgroup that something else has removed."""
    gone = box.child("gone")
    os.rmdir(gone.path)
    return gone


STARTS: dict[str, Callable[[], object]] = {
    "fork_exec": lambda: subprocess.run(["true"]).returncode,
    "preexec_fn": lambda: subprocess.run(["true"], preexec_fn=lambda: None).returncode,
    "posix_spawn": lambda: os.waitpid(os.posix_spawnp("true", ["true"], os.environ), 0)[1],
    "system": lambda: os.system("true"),
    "fork": lambda: os.waitpid(os.fork() or os._exit(0), 0)[1],
}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_a_removed_cgroup_is_replaced_by_a_second_begin_spawn(
    start: Callable[[], object], installed: None, box: Cgroup, gone: Cgroup
) -> None:
    with running(Call(gone, box)) as call:
        assert start() == 0
    assert call.failed[0] is None
    assert isinstance(call.failed[1], spawn.PlacementError)
    assert call.ended[0] is None
    assert isinstance(call.ended[1], int)


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_nothing_starts_when_no_cgroup_takes_the_process(
    start: Callable[[], object], installed: None, gone: Cgroup
) -> None:
    before = children()  # such as the resource tracker of multiprocessing
    with running(Call(gone)) as call, pytest.raises(CgroupUnavailable, match="cgroup") as caught:
        start()
    assert isinstance(caught.value.__cause__, spawn.PlacementError)
    assert not isinstance(caught.value.__cause__, FileNotFoundError)
    assert call.ended == [None, None]
    assert children() == before


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_nothing_starts_when_the_call_is_over(
    start: Callable[[], object], installed: None, box: Cgroup
) -> None:
    class Over(Call):
        def begin_spawn(self, failed: OSError | None = None) -> int | None:
            raise LimitExceeded("over", record=None)  # type: ignore[arg-type]  # none was made

    before = children()
    with running(Over(box)) as call, pytest.raises(LimitExceeded):
        start()
    assert call.ended == [None]
    assert children() == before


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_a_call_without_a_cgroup_starts_its_children_unplaced(
    start: Callable[[], object], installed: None
) -> None:
    with running(Call(None)) as call:
        assert start() == 0
    assert call.failed == [None]
    assert len(call.ended) == 1


def outcome(act: Callable[[], object]) -> object:
    try:
        return act()
    except Exception as error:
        return type(error), getattr(error, "errno", None), getattr(error, "filename", None)


ERRORS: dict[str, Callable[[], object]] = {
    "no such program": lambda: subprocess.run(["/nonexistent/program"]),
    "no such program on PATH": lambda: subprocess.run(["agentcgroup-no-such-program"]),
    "not executable": lambda: subprocess.run(["/etc/passwd"]),
    "a directory": lambda: subprocess.run(["/"]),
    "no such cwd": lambda: subprocess.run(["true"], cwd="/nonexistent"),
    "cwd is a file": lambda: subprocess.run(["true"], cwd="/etc/passwd"),
    "no such cwd, to a path": lambda: subprocess.run(["true"], cwd=b"/nonexistent"),
    "bad group": lambda: subprocess.run(["true"], user=-1),
    "raising preexec_fn": lambda: subprocess.run(["true"], preexec_fn=lambda: 1 / 0),
    "nul in argument": lambda: subprocess.run(["true", "a\0b"]),
    "nul in environment": lambda: subprocess.run(["true"], env={"A": "a\0b"}),
    "nul in cwd": lambda: subprocess.run(["true"], cwd="/\0"),
    "bad descriptor": lambda: subprocess.run(["true"], stdin=12345),
    "posix_spawn: no such program": lambda: os.posix_spawn("/nonexistent", ["x"], {}),
    "posix_spawnp: no such program": lambda: os.posix_spawnp("agentcgroup-none", ["x"], {}),
    "posix_spawn: not executable": lambda: os.posix_spawn("/etc/passwd", ["x"], {}),
    "posix_spawn: no such file to open": lambda: os.posix_spawn(
        "/bin/true", ["x"], {}, file_actions=[(os.POSIX_SPAWN_OPEN, 1, "/nonexistent", 0, 0)]
    ),
    "posix_spawn: bad descriptor": lambda: os.posix_spawn(
        "/bin/true", ["x"], {}, file_actions=[(os.POSIX_SPAWN_DUP2, 12345, 1)]
    ),
    "posix_spawn: nul in argument": lambda: os.posix_spawn("/bin/true", ["x\0"], {}),
    "posix_spawn: nul in path": lambda: os.posix_spawn("/bin/true\0", ["x"], {}),
    "posix_spawn: no arguments": lambda: os.posix_spawn("/bin/true", [], {}),
    "posix_spawn: bad environment": lambda: os.posix_spawn("/bin/true", ["x"], {"A=B": "c"}),
    "posix_spawn: signal out of range": lambda: os.posix_spawn(
        "/bin/true", ["x"], {}, setsigmask=[signal.NSIG]
    ),
    "posix_spawn: no such option": lambda: os.posix_spawn("/bin/true", ["x"], {}, nonsense=1),
    "system: nul": lambda: os.system("true\0"),
    "system: no such program": lambda: os.system("exec /nonexistent 2>/dev/null"),
    "system: killed": lambda: os.system("kill -9 $$"),
    "system: not a string": lambda: os.system(1),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("act", ERRORS.values(), ids=ERRORS)
def test_a_program_fails_as_it_would_outside_of_a_call(
    act: Callable[[], object], installed: None, box: Cgroup
) -> None:
    outside = outcome(act)
    with running(Call(box)):
        assert outcome(act) == outside
    assert box.procs() == []


def test_no_instruction_of_the_program_runs_outside(
    installed: None, box: Cgroup, tmp_path: Path
) -> None:
    """In a frozen cgroup the child stops before its exec, and the parent's GIL is free."""
    box.freeze(SOON)
    marker = tmp_path / "ran"
    with running(Call(box)):
        thread = threading.Thread(target=subprocess.run, args=(["touch", marker],))
        thread.start()
    assert until(lambda: bool(box.procs()))
    time.sleep(0.2)
    (pid,) = box.procs()
    assert os.readlink(f"/proc/{pid}/exe") == os.path.realpath(sys.executable)
    assert not marker.exists()
    box.thaw()
    thread.join(SOON)
    assert not thread.is_alive()
    assert marker.exists()


def test_system_waits_through_signals_and_restores_them(installed: None, box: Cgroup) -> None:
    seen: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda *_: seen.append(1))
    try:
        with running(Call(box)):
            # The parent ignores SIGINT while it waits, the shell does not.
            assert os.system(f"kill -INT {os.getpid()}; kill -INT $$") == signal.SIGINT
        assert seen == []
        os.kill(os.getpid(), signal.SIGINT)
        assert seen == [1]
        assert signal.SIGCHLD not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        signal.signal(signal.SIGINT, previous)


REFUSED = """
import asyncio, uvloop
from agentcgroup import scope, spawn

class Over:
    def begin_spawn(self, failed=None):
        raise RuntimeError("the call is over")
    def end_spawn(self, pid):
        assert pid is None

async def main():
    scope.current.set(Over())
    for start in (
        lambda: asyncio.create_subprocess_exec("echo", "ran anyway"),
        lambda: asyncio.create_subprocess_shell("echo ran anyway"),
    ):
        try:
            await start()
        except RuntimeError as error:
            print(error)
    scope.current.set(None)
    process = await asyncio.create_subprocess_exec("true")
    print(await process.wait())

spawn.install()
uvloop.new_event_loop().run_until_complete(main())
"""


@pytest.mark.parametrize("mode", MODES)
def test_a_fork_without_a_patch_point_is_refused_when_the_call_is_over(mode: str) -> None:
    """Uvloop forks in C: no hook can raise there, so the child must exit; the coroutine raises."""
    done = run_python(mode, "-c", REFUSED)
    assert done.stdout == "the call is over\nthe call is over\n0\n"
    assert done.stderr.count("process refused: its tool call takes no more") == 2
    assert "Exception ignored" not in done.stderr


def test_install_is_idempotent_and_uninstall_restores_the_builtins() -> None:
    import _posixsubprocess
    import posix

    names = [
        (module, name)
        for module, names in (
            (os, ("system", "posix_spawn", "posix_spawnp", "fork", "forkpty")),
            (posix, ("system", "fork")),
            (_posixsubprocess, ("fork_exec",)),
        )
        for name in names
    ]
    before = [getattr(module, name) for module, name in names]
    spawn.install()
    patched = [getattr(module, name) for module, name in names]
    spawn.install()
    assert [getattr(module, name) for module, name in names] == patched
    assert not set(map(id, before)) & set(map(id, patched))
    spawn.uninstall()
    spawn.uninstall()
    assert [getattr(module, name) for module, name in names] == before


def test_replacements_kept_over_uninstall_call_the_builtins(box: Cgroup) -> None:
    spawn.install()
    kept = os.system
    spawn.uninstall()
    with running(Call(box)) as call:
        assert kept("exit 3") == 3 << 8
        assert subprocess.run(["true"]).returncode == 0
    assert call.failed == []


def test_names_bound_by_from_import_are_patched_too(box: Cgroup) -> None:
    module = type(sys)("agentcgroup_test_from_import")
    exec("from os import fork as spoon, system", module.__dict__)
    sys.modules[module.__name__] = module
    try:
        spawn.install()
        with running(Call(box)) as call:
            assert module.system("true") == 0
            os.waitpid(module.spoon() or os._exit(0), 0)
        assert len(call.ended) == 2
        spawn.uninstall()
        assert module.spoon is os.fork
    finally:
        del sys.modules[module.__name__]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.timeout(900)
def test_many_threads_under_signals_place_every_child(mode: str, box: Cgroup) -> None:
    done = run_python(mode, os.path.join(CASES, "spawn_stress.py"), box.path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "ok\n"


WITHOUT_EXTENSION = """
import sys
sys.modules["agentcgroup._native"] = None
import spawn
spawn.main("subprocess_run", sys.argv[1])
"""


def test_children_are_placed_without_the_extension(box: Cgroup) -> None:
    done = run_python("clone3", "-c", WITHOUT_EXTENSION, box.path, cwd=CASES)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["mode"] == "fork"
    assert os.path.basename(report["seen"][0]) == os.path.basename(box.path)


def test_method_reports_the_mode() -> None:
    method = spawn.method()
    assert method.state == ("yes" if method.mode == "clone3" else "partly")
    assert (method.fix is None) == (method.mode == "clone3")


def test_the_extension_has_the_functions_of_its_stub() -> None:
    """Each C file has a table of functions, which module.c has to add to the module."""
    stub = Path(__file__).parents[3] / "core" / "_native.pyi"
    declared = {
        node.name
        for node in ast.parse(stub.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    assert {name for name in vars(_native) if not name.startswith("__")} == declared
    assert all(getattr(_native, name).__doc__ for name in declared)


def test_a_cgroup_that_is_not_ours_is_no_error_of_the_program(installed: None, box: Cgroup) -> None:
    """Run as another user, because root may write to every cgroup."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.seteuid(65534)
            with running(Call(box)), pytest.raises(CgroupUnavailable) as caught:
                subprocess.run(["true"])
            status = 0 if caught.value.__cause__.errno == errno.EACCES else 2  # type: ignore[union-attr]
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("name", ["native", "pure"])
def test_the_child_of_an_unknown_fork_exec_is_migrated(name: str, box: Cgroup) -> None:
    """A future Python may add arguments, and may not fork where the backend expects a fork."""
    backend = {"native": NativeBackend, "pure": PythonBackend}[name]()
    children: list[subprocess.Popen[bytes]] = []

    def future_fork_exec(*args: object) -> int:
        children.append(subprocess.Popen(["sleep", "60"]))
        return children[0].pid

    pid = backend.fork_exec(box.fd, tuple(range(99)), future_fork_exec)
    assert pid in box.procs()
    children[0].kill()
    children[0].wait()
