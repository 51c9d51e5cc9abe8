"""Hostile names of tools and agents reach no path, and the record keeps them whole."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from langchain_core.tools import tool

import agentcgroup
from agentcgroup import Session
from agentcgroup.calls import feedback

HOSTILE = [
    "../../x",
    "/etc/passwd",
    "a\0b",
    "line\nbreak",
    "x" * 4096,
    "",
    ".",
    "..",
    "naïve 工具 🛠",
    "cgroup.procs",
    "lone \udc80 surrogate",
    "[*?]",
]


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    session = agentcgroup.register("langchain", config={"records": str(tmp_path / "calls.jsonl")})
    yield session
    agentcgroup.unregister()


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_a_hostile_name_reaches_no_path_and_stays_whole(
    session: Session, tmp_path: Path, name: str
) -> None:
    """The directories have numbers for names; the record and the file have the whole name."""
    with agentcgroup.call(name, agent=name, tool_call_id=name):
        subprocess.run(["true"])
    (record,) = session.records
    assert (record.tool, record.agent, record.tool_call_id) == (name, name, name)
    assert record.cgroup is not None
    assert re.fullmatch(r"agent-\d+/call-\d+", "/".join(record.cgroup.split("/")[-2:]))
    (line,) = (tmp_path / "calls.jsonl").read_text().splitlines()
    assert json.loads(line)["tool"] == name


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_a_hostile_name_is_one_short_line_for_the_model(session: Session, name: str) -> None:
    """The sentence has at most 60 words and no line break, for every name of a tool."""
    with pytest.raises(agentcgroup.LimitExceeded) as caught, agentcgroup.call(name, timeout="50ms"):
        subprocess.run(["sleep", "60"])
    told = feedback.sentence(caught.value.record)
    assert told == str(caught.value)
    assert "\n" not in told
    assert len(told.split()) <= 60
    assert told.isprintable()


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_a_framework_tool_may_be_called_anything(session: Session, name: str) -> None:
    """The name of a tool from an MCP server need not be the name of a file."""

    @tool
    def hostile() -> str:
        """Run."""
        return subprocess.check_output(["echo", "ran"], text=True)

    hostile.name = name
    assert hostile.invoke({}) == "ran\n"
    assert [record.tool for record in session.records] == [name]


def test_a_records_file_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    """register() raises and names the key, and no session is registered."""
    with pytest.raises(agentcgroup.ConfigError, match=r"records: .* cannot be written"):
        agentcgroup.register("langchain", config={"records": str(tmp_path / "no" / "calls.jsonl")})
    assert agentcgroup.current_call() is None


def test_the_error_names_the_line_of_the_records_file(tmp_path: Path) -> None:
    config = tmp_path / "limits.toml"
    config.write_text('mode = "auto"\nrecords = "missing/records.jsonl"\n')
    with pytest.raises(agentcgroup.ConfigError, match=r"limits\.toml:2: records: .*/missing/"):
        agentcgroup.register(config=config)
