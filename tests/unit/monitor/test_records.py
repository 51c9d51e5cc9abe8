"""Figures of the monitor in records: real processes, by each source that this machine has."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import agentcgroup
from agentcgroup import CallRecord, Session
from agentcgroup.monitor.procs import Connector
from agentcgroup.records.record import Program
from tests.support.monitored import Register, backend, patient, registered
from tests.support.processes import children

__all__ = ["backend", "patient", "registered"]


def _record(session: Session, body: Callable[[], object], **limits: Any) -> CallRecord:
    with agentcgroup.call("tool", **limits):
        body()
    return session.records[-1]


def _names(record: CallRecord) -> list[str]:
    assert record.programs is not None
    return [os.path.basename(one.program) for one in record.programs]


def test_a_known_tree_is_counted_with_its_programs_and_their_ends(
    registered: Register, backend: str
) -> None:
    session = registered()
    # Each sleep lives long enough for the helper to read its program.
    script = "/bin/sleep 1 & /bin/sleep 1; (exit 7); sh -c 'sleep 1; kill -TERM $$'; wait"
    record = _record(session, lambda: subprocess.run(["bash", "-c", script]))
    assert record.monitor == backend
    assert record.processes_started == 6  # bash, two sleeps, the subshell, sh, its sleep
    assert record.programs_left_out == 0
    assert record.escapes == 0
    # BPF reports the path that was executed, /proc the file behind it.
    shell = "sh" if backend == "libbpf" else os.path.basename(os.path.realpath("/bin/sh"))
    assert sorted(_names(record)) == ["bash", "bash", shell, "sleep", "sleep", "sleep"]
    assert record.programs is not None
    ends = sorted((one.exit_code or 0, one.signal or 0) for one in record.programs)
    # Bash ends with the status of wait.
    assert ends == [(0, 0), (0, 0), (0, 0), (0, 0), (0, 15), (7, 0)]


def test_a_call_without_processes_has_no_figures(registered: Register) -> None:
    """Absent is not zero."""
    record = _record(registered(), lambda: None)
    assert (record.monitor, record.processes_started, record.programs) == (None, None, None)


def test_no_call_of_many_in_a_row_lacks_events(registered: Register) -> None:
    """Also where usage is read later, on another thread, and where the cgroup is a spare."""
    session = registered()
    for _ in range(100):
        with agentcgroup.call("tool"):
            subprocess.run(["true"])
    records = session.records
    assert [record.processes_started for record in records] == [1] * 100
    # A program that ends before the helper reads /proc has no name.
    assert {tuple(_names(record)) for record in records} <= {("true",), ("?",)}


def test_more_programs_than_a_record_holds_are_counted(registered: Register) -> None:
    script = "for i in $(seq 80); do /bin/true; done"
    record = _record(registered(), lambda: subprocess.run(["sh", "-c", script]))
    assert record.programs is not None
    assert len(record.programs) == 64
    # sh, the substitution's fork, seq in it, 80 times true: seq executes in the fork or in its own.
    assert record.processes_started in (82, 83)
    assert record.programs_left_out == record.processes_started - 64


def test_a_stopped_call_has_its_figures_in_the_error(registered: Register) -> None:
    """Its usage is read at once, in the tool's own thread."""
    registered()
    with (
        pytest.raises(agentcgroup.LimitExceeded) as caught,
        agentcgroup.call("tool", timeout="2s"),
    ):
        subprocess.run(["sleep", "60"])
    assert caught.value.record.processes_started == 1
    only = _only(caught.value.record)
    assert os.path.basename(only.program) == "sleep"
    assert (only.exit_code, only.signal) == (None, 9)


def _only(record: CallRecord) -> Program:
    assert record.programs is not None
    (program,) = record.programs
    return program


def _sleep() -> str:
    return os.path.realpath(
        subprocess.check_output(["sh", "-c", "command -v sleep"], text=True)[:-1]
    )


def test_a_call_inside_counts_for_the_one_around_it(registered: Register) -> None:
    session = registered()
    with agentcgroup.call("outer"):
        subprocess.run(["true"])
        with agentcgroup.call("inner"):
            subprocess.run(["true"])
            subprocess.run(["true"])
    inner, outer = session.records
    assert (inner.tool, inner.processes_started) == ("inner", 2)
    assert (outer.tool, outer.processes_started) == ("outer", 3)


def test_a_worker_is_a_process_of_its_call(registered: Register, backend: str) -> None:
    """A worker that serves several calls is a process of none of them."""
    session = registered()

    def tool() -> int:
        return subprocess.run(["true"]).returncode

    for _ in range(3):
        agentcgroup.isolate(isolation="process")(tool)()
    for _ in range(3):
        agentcgroup.isolate(isolation="process", reuse=3)(tool)()
    found = [(one.monitor, one.processes_started, one.escapes) for one in session.records]
    assert found == [(backend, 2, 0)] * 3 + [(None, None, None)] * 3


def test_hostile_names_of_programs_are_text_in_the_json_lines(
    registered: Register, tmp_path: Path
) -> None:
    """A tool names its programs: with line breaks, escapes, bytes that are not UTF-8."""
    lines = tmp_path / "records.jsonl"
    session = registered(records=str(lines))
    folder = os.fsencode(tmp_path)
    name = folder + b'/a\n{"}\x1b[2J\xff'
    os.symlink(folder, folder + b"/x")
    with open(b"/bin/sleep", "rb") as program, open(name, "wb") as copy:
        copy.write(program.read())
    os.chmod(name, 0o755)
    record = _record(session, lambda: subprocess.run([name, b"1"]))
    written = f'{tmp_path}/a\n{{"}}\x1b[2J\\xff'
    assert _only(record).program == written
    agentcgroup.unregister()
    (line,) = lines.read_text(encoding="ascii").splitlines()
    assert json.loads(line)["programs"] == [
        {"program": written, "pid": _only(record).pid, "exit_code": 0, "signal": None}
    ]


def test_without_a_backend_records_have_the_files_figures_alone(registered: Register) -> None:
    session = agentcgroup.register("langchain", config={"monitor": {"backend": "off"}})
    try:
        assert not session._services.monitor.wait(0)
        record = _record(session, lambda: subprocess.run(["true"]))
        assert (record.monitor, record.processes_started) == (None, None)
        assert record.cpu_usage_s is not None
    finally:
        agentcgroup.unregister()


def test_without_rights_records_have_the_files_figures_alone() -> None:
    """Without CAP_NET_ADMIN (and before 6.6) calls run as ever, and nothing is logged."""
    code = (
        "import agentcgroup, subprocess\n"
        "config = {'mode': 'observe', 'monitor': {'backend': 'auto'}}\n"
        "session = agentcgroup.register(config=config)\n"
        "session._services.monitor.start()\n"
        "print(session._services.monitor.wait(60), session._services.monitor.state)\n"
        "with agentcgroup.call('tool'):\n"
        "    subprocess.run(['true'])\n"
        "print(session.records[-1].outcome)\n"
    )
    dropped = ["unshare", "--user", "--map-root-user", sys.executable, "-c", code]
    done = subprocess.run(dropped, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "off", "ok"]
    assert "monitor" not in done.stderr


def test_the_kernels_answer_to_another_process_is_not_taken_for_ours() -> None:
    """Every subscriber of the network namespace gets it, also one that gets no events itself."""
    code = (
        "import json; from agentcgroup.monitor.choice import choose;"
        "print(json.dumps(choose('procs', 'default', stop=True)))"
    )
    apart = ["unshare", "--user", "--map-root-user", sys.executable, "-c", code]
    with subprocess.Popen(apart, stdout=subprocess.PIPE, text=True) as child:
        while child.poll() is None:
            Connector().close()
        assert child.stdout is not None
        source, [[name, reason, _]] = json.loads(child.stdout.read())
    assert (source, name) == (None, "procs")
    assert "first pid and user namespaces" in reason


def test_a_child_that_moves_itself_has_not_escaped_and_counts(backend: str) -> None:
    """Without the C extension a child is born outside and joins its cgroup as its first act."""
    code = (
        "import agentcgroup, subprocess, sys\n"
        "session = agentcgroup.register(config={'monitor': {'backend': sys.argv[1]}})\n"
        "session._services.monitor.start()\n"
        "assert session._services.monitor.wait(60)\n"
        "for _ in range(100):\n"
        "    with agentcgroup.call('tool'):\n"
        "        subprocess.run(['true'])\n"
        "print(*{(one.escapes, one.processes_started) for one in session.records})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, backend],
        env={**os.environ, "AGENTCGROUP_PURE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "(0, 1)\n"


def test_programs_that_a_tool_executes_inherit_no_descriptor_of_ours(registered: Register) -> None:
    """Nor do programs outside of calls: a process with a descriptor can write the kernel's maps."""
    before = _inheritable()
    registered()
    assert _inheritable() == before


def _inheritable() -> set[str]:
    found = set()
    for fd in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # of listdir() itself, or closed by another thread
            if os.get_inheritable(fd):
                found.add(f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}")
    return found


def _forks() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _opens_a_terminal() -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(terminal)


def _forks_as_multiprocessing() -> None:
    process = multiprocessing.get_context("fork").Process(target=int)
    process.start()
    process.join()


def _prepares() -> None:
    subprocess.run(["true"], preexec_fn=int)


def _prepares_in_a_thread() -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(_prepares).result()


@pytest.mark.parametrize(
    "body", [_forks, _opens_a_terminal, _forks_as_multiprocessing, _prepares, _prepares_in_a_thread]
)
def test_the_child_of_a_real_fork_has_not_escaped_and_counts(
    registered: Register, body: Callable[[], None]
) -> None:
    """Where Python has to fork, the child cannot be born in its cgroup and joins it at once."""
    session = registered()
    for _ in range(30):
        with agentcgroup.call("tool"):
            body()
    found = [(one.escapes, one.processes_started) for one in session.records]
    assert found == [(0, 1)] * 30


def test_the_helper_is_no_child_of_the_app(registered: Register) -> None:
    """An app that waits for any child must not find the helper."""
    before = children()
    registered()
    assert children() == before
