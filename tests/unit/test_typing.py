"""The types of the public interface, as a user's type checker sees them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_PROGRAM = """\
import contextlib

import agentcgroup
from typing_extensions import assert_type


@agentcgroup.isolate
def bare(path: str) -> int:
    return len(path)


@agentcgroup.isolate(memory_max="256M")
def limited(path: str) -> int:
    return len(path)


@agentcgroup.isolate("name", agent="coder", isolation="process")
async def named(path: str) -> int:
    return len(path)


def each(record: agentcgroup.CallRecord) -> None:
    assert_type(record.memory_peak_bytes, int | None)


def happened(event: agentcgroup.Event) -> None:
    assert_type(event.program, str | None)


async def main() -> None:
    assert_type(await named("a"), int)
    async with agentcgroup.agent("coder"), agentcgroup.call("build", timeout="5m") as call:
        assert_type(call, agentcgroup.Call)


with agentcgroup.register("langchain", config={"mode": "auto"}) as session:
    assert_type(session, agentcgroup.Session)
    session.on_record(each)
    session.on_event(happened)
    assert_type(bare("a"), int)
    assert_type(limited("a"), int)
    limited(1)  # type: ignore[arg-type]
    try:
        with agentcgroup.agent("coder", memory_max="4G"), agentcgroup.call("build") as call:
            assert_type(agentcgroup.current_call(), agentcgroup.Call | None)
    except agentcgroup.LimitExceeded as error:
        each(error.record)
    with contextlib.closing(session.stream()) as stream:
        for event in stream:
            happened(event)
agentcgroup.unregister()
"""


def test_a_strict_checker_follows_the_whole_public_interface(folder: Path) -> None:
    """A decorated function keeps its type, and the checker reports a wrong argument."""
    (folder / "program.py").write_text(_PROGRAM)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "program.py"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
