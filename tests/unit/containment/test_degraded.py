"""Machines that lack something: ``auto`` does the rest and says so, ``enforce`` refuses."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence

import pytest

from tests.support.nobody import AS_NOBODY

_HEAD = """
import logging, os, subprocess, sys, time
import agentcgroup
from langchain_core.tools import tool
logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")

@tool
def slow(command: str) -> str:
    "Run."
    return subprocess.run(command, shell=True, capture_output=True, text=True).stdout

def call(command):
    asked = {"type": "tool_call", "name": "slow", "args": {"command": command}, "id": "i"}
    return slow.invoke(asked)
"""
_USE = """
session = agentcgroup.register("langchain", config={"limits": {"call": {"timeout": "4s"}}})
assert call("echo fine").content == "fine\\n"
began = time.monotonic()
nap = f"sleep 359.{os.getpid()}"  # tells them from all others on this machine
told = call(f"{nap} & {nap}")
assert time.monotonic() - began < 100
assert told.status == "error" and "time limit" in told.content, told
print([record.outcome for record in session.records])
agentcgroup.unregister()
deadline = time.monotonic() + 60
while left := subprocess.run(["pgrep", "-fx", nap], capture_output=True, text=True).stdout:
    assert time.monotonic() < deadline, left
"""
_REFUSE = """
try:
    agentcgroup.register("langchain", config={"mode": "enforce"})
except agentcgroup.CgroupUnavailable as error:
    print("refused:", error)
"""


def _run(
    code: str, *, before: Sequence[str] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*before, sys.executable, "-c", textwrap.dedent(_HEAD) + code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody; CI is root")
def test_without_rights_auto_works_and_says_what_is_missing() -> None:
    """As nobody: timeouts end the process tree, the warning names what is not enforced."""
    done = _run(_USE, before=AS_NOBODY)
    assert done.stdout.strip() == "['ok', 'timeout']"
    assert "not enforced here" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody; CI is root")
def test_without_rights_enforce_refuses_with_the_reason() -> None:
    """The error says what is missing and what would change it."""
    done = _run(_REFUSE, before=AS_NOBODY)
    assert done.stdout.startswith('refused: mode = "enforce"')


def test_without_cgroup_v2_auto_works_and_says_what_is_missing() -> None:
    """A root that is no cgroup v2 stands for a machine without: all else goes on."""
    done = _run(_USE, AGENTCGROUP_ROOT="/tmp")
    assert done.stdout.strip() == "['ok', 'timeout']"
    assert "not enforced here" in done.stderr
    assert "/tmp" in done.stderr


def test_without_cgroup_v2_enforce_refuses_with_the_reason() -> None:
    """The same root, and not one tool runs uncontained."""
    done = _run(_REFUSE, AGENTCGROUP_ROOT="/tmp")
    assert done.stdout.startswith('refused: mode = "enforce"')
    assert "/tmp" in done.stdout


def test_without_the_extension_children_are_placed_all_the_same() -> None:
    """The fallback forks and joins: slower, and in the call's cgroup."""
    done = _run(
        """
session = agentcgroup.register("langchain", config={})
inside = call("cat /proc/self/cgroup").content
(record,) = session.records
assert record.cgroup.rpartition("/agentcgroup/")[2] in inside, inside
agentcgroup.unregister()
"""
        + _USE,
        AGENTCGROUP_PURE="1",
    )
    assert done.stdout.strip() == "['ok', 'timeout']"


_EAT = """
session = agentcgroup.register("langchain", config={"limits": {"call": {"memory_max": "64M"}}})
began = time.monotonic()
told = call(sys.executable + " -ISc 'x = bytearray(300 << 20); import time; time.sleep(60)'")
assert time.monotonic() - began < 55
assert "memory limit of 64 MiB (memory_max)" in told.content, told
assert call(sys.executable + " -ISc 'x = bytearray(8 << 20); print(len(x))'").content
print([record.outcome for record in session.records])
"""


@pytest.mark.parametrize("root", ["", "/tmp"], ids=["no controllers", "no cgroup"])
def test_without_the_memory_controller_memory_is_looked_after(root: str) -> None:
    """A call over its memory_max ends, seen by looking; one below it is left alone.

    On a machine where the kernel holds the limit, the first of the two shows that instead.
    """
    done = _run(_EAT, **({"AGENTCGROUP_ROOT": root} if root else {}))
    assert done.stdout.strip() == "['oom', 'ok']"


def test_observe_limits_nothing_and_records() -> None:
    """Mode observe: a call over its time goes on; its record is there."""
    _run(
        """
session = agentcgroup.register(
    "langchain", config={"mode": "observe", "limits": {"call": {"timeout": "200ms"}}}
)
assert call("sleep 0.5; echo done").content == "done\\n"
(record,) = session.records
assert (record.outcome, record.cgroup is not None) == ("ok", True)
"""
    )


def test_off_does_nothing() -> None:
    """Mode off: no cgroup, no record, the tool's own result."""
    _run(
        """
session = agentcgroup.register("langchain", config={"mode": "off"})
assert call("echo free").content == "free\\n"
assert session.records == ()
"""
    )


def test_a_forked_worker_is_a_run_of_its_own() -> None:
    """A pre-fork server registers once; each worker contains its own calls in its own run."""
    _run(
        """
session = agentcgroup.register("langchain", config={})
call("true")
parent = session.records[0].cgroup.split("/")[-3]
pid = os.fork()
if pid == 0:
    try:
        call("true")
        (record,) = session.records
        child = record.cgroup.split("/")[-3]
        assert child != parent and str(os.getpid()) in child, (child, parent)
        session.close()
        os._exit(0)
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
assert os.waitpid(pid, 0)[1] == 0
call("true")
assert len(session.records) == 2
"""
    )
