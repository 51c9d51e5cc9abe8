"""Forked processes: nothing is begun in them before their first call, and then all of it anew."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentcgroup import forks

#: Forks by C code, as uWSGI makes its workers, run no hooks of Python. Python hangs in the child
#: where another thread waits for the interpreter's lock at that moment: no thread of ours may.
_FORKS = {
    "os.fork": "fork = os.fork",
    "fork(2)": """
import ctypes
def fork():
    session.records
    time.sleep(0.1)
    return ctypes.PyDLL(None).fork()
""",
}

_BEGIN = """
import json, os, subprocess, sys, time
import agentcgroup
session = agentcgroup.register(config={"records": sys.argv[1]})
def true():
    with agentcgroup.call("tool") as call:
        subprocess.run(["true"])
    return call
def threads():
    return len(os.listdir("/proc/self/task"))
def parent_of(child):
    if child:
        assert os.waitpid(child, 0)[1] == 0
    return child
"""


def _run(tmp_path: Path, code: str, *options: str) -> list[str]:
    """Run a program; return the lines that it and its forks print."""
    command = [sys.executable, *options, "-c", _BEGIN + code, str(tmp_path / "records")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_mark_is_lost_in_a_fork() -> None:
    code = "import os; from agentcgroup import forks; mark = forks.mark(); print(mark[0])\n"
    code += "os.fork() or os.execvp('echo', ['echo', str(mark[0])]); os.wait()"
    for how in ("", "forks.mark = forks._Pid;"):
        patched = code.replace("mark =", f"{how} mark =", 1)
        done = subprocess.run([sys.executable, "-uc", patched], capture_output=True, text=True)
        assert done.stdout.split() in (["1", "0"], ["True", "False"]), done.stderr
    assert forks.mark()[0]


@pytest.mark.parametrize("fork", _FORKS)
def test_a_fork_begins_nothing_before_its_first_call(tmp_path: Path, fork: str) -> None:
    """No thread, no cgroup, no wait at its end; the first call is one of a run of its own."""
    code = f"""
{_FORKS[fork]}
true()
mine = session.records[0].id
if not parent_of(fork()):
    assert (threads(), session.records) == (1, ())
    sys.exit(0)
if not parent_of(fork()):
    call = true()
    begin = time.monotonic()
    (record,) = session.records
    assert time.monotonic() - begin < 10
    assert f"agentcgroup.run-{{os.getpid()}}-" in record.cgroup
    assert not os.path.exists(call.contained.group.cgroup.path)
    assert record.id != mine
    begin = time.monotonic()
    session.close()
    assert time.monotonic() - begin < 10
    print("child")
    sys.stdout.flush()
    os._exit(0)
true()
assert [record.id for record in session.records] == [mine, mine[:-1] + "2"]
print("parent")
"""
    assert _run(tmp_path, code) == ["child", "parent"]


@pytest.mark.parametrize("fork", _FORKS)
def test_a_fork_inside_a_call_ends_nothing_of_it(tmp_path: Path, fork: str) -> None:
    """It may even leave the call's block and the program as its parent does."""
    code = f"""
{_FORKS[fork]}
with agentcgroup.call("outer") as outer:
    subprocess.run(["true"])
    if child := fork():
        assert os.waitpid(child, 0)[1] == 0
        assert os.path.exists(outer.contained.group.cgroup.path)
    else:
        with agentcgroup.call("inner"):
            subprocess.run(["true"])
if child:
    print([record.tool for record in session.records])
"""
    assert _run(tmp_path, code) == ["['outer']"]


#: Forks; the child exits with the number of functions of ours that have run since `watch`.
_QUIET = {
    "os.fork": "os.fork() or os._exit(len(ran))",
    "preexec_fn": "p = subprocess.Popen(['true'], preexec_fn=lambda: os._exit(len(ran)))",
    "multiprocessing": "p = multiprocessing.get_context('fork').Process(target=lambda:"
    " os._exit(len(ran))); p.start()",
}


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="there a warning is looked at, in Python")
@pytest.mark.skipif(os.environ.get("AGENTCGROUP_PURE", "0") not in ("", "0"), reason="needs C")
@pytest.mark.parametrize("way", _QUIET)
def test_a_fork_outside_of_calls_runs_no_function_of_ours(tmp_path: Path, way: str) -> None:
    """Each page of memory that it touched would be copied."""
    code = f"""
import multiprocessing
true()
session.records
ran = []
def watch(frame, event, argument):
    if "/agentcgroup/" in frame.f_code.co_filename:
        ran.append(frame.f_code.co_name)
sys.setprofile(watch)
{_QUIET[way]}
sys.setprofile(None)
print(os.waitstatus_to_exitcode(os.wait()[1]), ran)
"""
    assert _run(tmp_path, code) == ["0 []"]


@pytest.mark.parametrize("fork", _FORKS)
def test_ids_are_unique_in_all_forks(tmp_path: Path, fork: str) -> None:
    code = f"""
{_FORKS[fork]}
for _ in range(4):
    if not parent_of(fork()):
        true(), true()
        session.close()
        os._exit(0)
true()
session.close()
"""
    _run(tmp_path, code)
    lines = (tmp_path / "records").read_text().splitlines()
    assert len({json.loads(line)["id"] for line in lines}) == len(lines) == 9


#: Forks of which Python 3.12 and later warn.
_WARNED = {
    "os.fork": "parent_of(os.fork()) or os._exit(0)",
    "os.forkpty": "parent_of(os.forkpty()[0]) or os._exit(0)",
    "preexec_fn": "subprocess.run(['true'], preexec_fn=int)",
    "multiprocessing": "import multiprocessing as m; p = m.get_context('fork').Process(target=int);"
    " p.start(); p.join()",
}


@pytest.mark.parametrize("way", _WARNED)
def test_no_fork_is_warned_of_for_the_sake_of_our_threads(tmp_path: Path, way: str) -> None:
    """Outside and inside of a call; warnings are errors, as in many test suites."""
    code = f"""
session.on_record(lambda record: None)
for _ in range(3):
    true()
    {_WARNED[way]}
assert threads() > 1
with agentcgroup.call("forks"):
    {_WARNED[way]}
print("done")
"""
    assert _run(tmp_path, code, "-W", "error::DeprecationWarning")[-1] == "done"


def test_a_thread_of_the_program_is_still_warned_of(tmp_path: Path) -> None:
    """From Python 3.12 on; the filter hides no warning but those of our threads."""
    code = """
import threading, warnings
true()
filters = list(warnings.filters)
go = threading.Event()
threading.Thread(target=go.wait).start()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    parent_of(os.fork()) or os._exit(0)
go.set()
assert warnings.filters == filters
print(len(caught))
"""
    assert _run(tmp_path, code) == [str(int(sys.version_info >= (3, 12)))]
