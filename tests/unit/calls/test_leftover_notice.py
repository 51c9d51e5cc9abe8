"""The log line about a program that a tool left running."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import agentcgroup
from agentcgroup import Session
from tests.support.processes import alive


@pytest.fixture
def session() -> Iterator[Session]:
    yield agentcgroup.register("langchain", config={})
    agentcgroup.unregister()


def _leave(program: str = "sleep") -> int:
    return subprocess.Popen([program, "60"]).pid


def _notices(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [text for text in caplog.messages if "left running" in text]


def test_each_program_is_named_once_with_the_rule(
    session: Session, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    other = shutil.copy(shutil.which("sleep") or "", tmp_path / "browser")
    for program in ("sleep", "sleep", str(other)):
        with agentcgroup.call("run [it]"):
            _leave(program)
    first, second = _notices(caplog)
    assert "'sleep', which tool 'run [it]' left running, is ended with the call" in first
    assert second.startswith("agentcgroup: 'browser'")


def test_the_rule_keeps_the_program(
    session: Session, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """As it is written in the log, also for a name with a character of a pattern."""
    with agentcgroup.call("run [it]"):
        _leave()
    (notice,) = _notices(caplog)
    rule = notice.partition("\n")[2]
    agentcgroup.unregister()
    folder = tmp_path / "rule.toml"
    folder.write_text(rule)
    agentcgroup.register("langchain", config=str(folder))
    with agentcgroup.call("run [it]"):
        kept = _leave()
    assert alive(kept)


def test_ray_is_said_to_end_its_programs(
    session: Session, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    raylet = shutil.copy(shutil.which("sleep") or "", tmp_path / "raylet")
    with agentcgroup.call("start_cluster"):
        _leave(str(raylet))
    (notice,) = _notices(caplog)
    assert "Ray ends every program that is connected to it" in notice


def test_what_ends_by_itself_is_not_named(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    with agentcgroup.call("shell"):
        subprocess.run(["sh", "-c", "sleep 0.01 &"], check=True)
    assert _notices(caplog) == []
