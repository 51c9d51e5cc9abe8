"""Records as JSON Lines: on a full disk, after kill -9, from several processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import agentcgroup
from agentcgroup.records.bus import FLUSH_INTERVAL
from agentcgroup.records.jsonl import JsonLines
from agentcgroup.records.record import CallRecord


def _record(tool: str) -> CallRecord:
    return CallRecord(
        id=tool,
        parent_id=None,
        framework="python",
        agent=None,
        tool=tool,
        tool_call_id=None,
        started_at=0.0,
        duration_s=0.0,
        outcome="ok",
        reason=None,
        limits={"memory_max": 1 << 30},
    )


def _tools(path: Path) -> list[str]:
    return [json.loads(line)["tool"] for line in path.read_text().splitlines()]


def test_a_line_is_the_whole_record(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_text('{"tool": "earlier run"}\n')
    lines, record = JsonLines(str(path)), _record("t\u00f6ol\n\udcff")
    lines.on_record(record)
    lines.flush()
    (_, line) = path.read_bytes().splitlines()
    assert line.isascii()
    assert json.loads(line) == record.to_dict()
    lines.close()


def test_the_session_writes_all_its_calls(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    with agentcgroup.register("langchain", config={"records": str(path)}) as session:
        for number in range(100):
            with agentcgroup.call(str(number)):
                pass
        records = session.records
    agentcgroup.unregister()
    written = [json.loads(line) for line in path.read_text().splitlines()]
    assert written == [json.loads(json.dumps(record.to_dict())) for record in records]


def test_a_full_disk_is_logged_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    with agentcgroup.register("langchain", config={"records": "/dev/full"}) as session:
        for _ in range(3):
            with agentcgroup.call("tool"):
                pass
            assert session._services.bus.drain(10)
        assert [record.outcome for record in session.records] == ["ok"] * 3
    agentcgroup.unregister()
    messages = [one.getMessage() for one in caplog.records]
    first, last = [message for message in messages if "/dev/full" in message]
    assert "cannot write records to /dev/full: [Errno 28] No space left" in first
    assert "3 records are missing in /dev/full" in last


#: The limit on a file's size cuts a write as a full disk does: what fits is written.
_FULL = """
import resource, sys
from agentcgroup.records.jsonl import JsonLines
from tests.unit.records.test_jsonl import _record

def batch(*numbers):
    for number in numbers:
        lines.on_record(_record(str(number)))
    lines.flush()

lines = JsonLines(sys.argv[1])
batch(0)
size = len(open(sys.argv[1]).read())
resource.setrlimit(resource.RLIMIT_FSIZE, (size * 5 // 2, resource.RLIM_INFINITY))
batch(1, 2, 3, 4)
batch(5)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
batch(6)
lines.close()
"""


def test_a_line_that_was_cut_is_completed_when_there_is_room(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    command = [sys.executable, "-c", _FULL, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert _tools(path) == ["0", "1", "2", "6"]
    assert done.stderr.count("cannot write records") == 1
    assert done.stderr.count("3 records are missing") == 1


def test_the_collected_lines_are_the_parents(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    lines = JsonLines(str(path))
    lines.on_record(_record("parent"))
    if (pid := os.fork()) == 0:
        lines.after_fork()
        lines.on_record(_record("child"))
        lines.flush()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    lines.flush()
    lines.close()
    assert _tools(path) == ["child", "parent"]


#: Notes each call when it has ended, in a write of its own, which a kill leaves behind.
_KILLED = """
import os, sys, time
import agentcgroup

agentcgroup.register("langchain", config={"records": sys.argv[1]})
for number in range(2_000):
    with agentcgroup.call(str(number)):
        time.sleep(0.0005)
    os.write(1, f"{number} {time.time()}\\n".encode())
time.sleep(60)
"""


def test_kill_9_costs_at_most_one_flush_interval(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    command = [sys.executable, "-c", _KILLED, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ended = [process.stdout.readline() for _ in range(1_000)]
        process.send_signal(signal.SIGKILL)
        ended += process.stdout.readlines()
    assert 1_000 <= len(ended) < 2_000
    written = _tools(path)  # whole lines all, and in order
    assert written == [str(number) for number in range(len(written))]
    times = [float(line.split()[1]) for line in ended]
    missing = times[-1] - times[len(written)] if len(written) < len(times) else 0.0
    # Half of it again for a machine that has other work than to wake the thread in time.
    assert missing <= FLUSH_INTERVAL * 1.5 + 0.1
    assert len(written) >= 500
