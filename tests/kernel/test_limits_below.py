"""A tool makes cgroups below its own, as container engines and builds do, and copes with them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import agentcgroup
from agentcgroup import CallRecord, LimitExceeded, Session
from tests.kernel.support import MiB

#: A tool: makes a cgroup below its own with some limits, runs a program there, and goes on.
_BELOW = """\
import os, subprocess, sys
own = open('/proc/self/cgroup').read().split('0::')[1].split()[0]
def enter(path, limits):
    os.mkdir(path)
    for name, text in limits.items():
        with open(f'{path}/{name}', 'w') as file:
            file.write(text)
def run(path, code):
    def move():
        with open(f'{path}/cgroup.procs', 'w') as file:
            file.write('0')
    return subprocess.run([sys.executable, '-ISc', code], preexec_fn=move).returncode
top = '/sys/fs/cgroup' + own
enter(f'{top}/tool', {})
with open(f'{top}/cgroup.procs', 'w') as file, open(f'{top}/tool/cgroup.procs', 'w') as tool:
    tool.write('0')
with open(f'{top}/cgroup.subtree_control', 'w') as file:
    file.write('+memory +pids')
"""
_EAT = "bytearray({} << 20)"


def _tool(session: Session, body: str, **limits: object) -> CallRecord:
    with agentcgroup.call("tool", **limits):
        done = subprocess.run(
            [sys.executable, "-ISc", _BELOW + body], capture_output=True, text=True
        )
    assert (done.returncode, done.stderr) == (0, "")
    return session.records[-1]


@pytest.mark.parametrize("removed", [False, True], ids=["there", "removed"])
@pytest.mark.parametrize("names", ["box", "slice/pod/box"])
def test_a_memory_limit_below_is_the_tools(
    registered: Callable[..., Session], names: str, removed: bool
) -> None:
    body = f"""
path = top
for name in {names!r}.split('/'):
    with open(path + '/cgroup.subtree_control', 'w') as file:
        file.write('+memory')
    path += '/' + name
    enter(path, {{}})
with open(path + '/memory.swap.max', 'w') as file:
    file.write('0')
with open(path + '/memory.max', 'w') as file:
    file.write('16M')
assert run(path, {_EAT.format(64)!r}) == -9
if {removed}:
    os.rmdir(path)
"""
    record = _tool(registered(), body, memory_max=256 * MiB)
    assert (record.outcome, record.reason) == ("ok", None)
    assert record.oom_kills


def test_a_pids_limit_below_is_the_tools(registered: Callable[..., Session]) -> None:
    fork = "import os, errno\ntry: os.fork()\nexcept BlockingIOError: os._exit(7)"
    body = f"""
enter(top + '/box', {{'pids.max': '1'}})
assert run(top + '/box', {fork!r}) == 7
"""
    record = _tool(registered(), body)
    assert (record.outcome, record.reason) == ("ok", None)


@pytest.mark.parametrize("where", ["call", "agent", "run"])
def test_a_limit_of_ours_that_a_process_below_hits_is_ours(
    registered: Callable[..., Session], where: str
) -> None:
    session = registered(limits={where: {"memory_max": "64M", "memory_swap_max": "0"}})
    body = f"""
enter(top + '/box', {{}})
assert run(top + '/box', {_EAT.format(128)!r}) == -9
"""
    with pytest.raises(LimitExceeded), agentcgroup.call("tool", memory_oom_group=False):
        subprocess.run([sys.executable, "-ISc", _BELOW + body])
    reason = "memory_max" if where == "call" else f"{where}.memory_max"
    record = session.records[-1]
    assert (record.outcome, record.reason) == ("oom", reason)


def test_a_langchain_tool_that_hits_its_own_limit_keeps_its_result(
    registered: Callable[..., Session], tmp_path: Path
) -> None:
    from langchain_core.tools import tool

    code = _BELOW + (
        "enter(top + '/box', {'memory.max': '16M', 'memory.swap.max': '0'})\n"
        f"print('killed', run(top + '/box', {_EAT.format(64)!r}))"
    )

    @tool
    def build() -> str:
        """Build in a container."""
        return subprocess.run([sys.executable, "-ISc", code], capture_output=True, text=True).stdout

    session = registered()
    assert build.invoke({}) == "killed -9\n"
    assert session.records[-1].outcome == "ok"
