"""Callbacks of the user, whose errors hurt no call."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

import agentcgroup
from agentcgroup import CallRecord, Session
from tests.support.processes import until


@pytest.fixture
def session() -> Iterator[Session]:
    yield agentcgroup.register("langchain", config={})
    agentcgroup.unregister()


def _nothing() -> None:
    """A call without a process is put on the bus by the tool's own thread."""


def _true() -> None:
    """A call with a process is put on the bus by the janitor's thread."""
    subprocess.run(["true"], check=True)


def _raise(record: CallRecord) -> None:
    raise RuntimeError(record.tool)


def _exit(record: CallRecord) -> None:
    sys.exit(record.tool)


@pytest.mark.parametrize("body", [_nothing, _true])
@pytest.mark.parametrize("callback", [_raise, _exit])
def test_what_a_callback_raises_hurts_no_call(
    session: Session, callback: Callable[[CallRecord], None], body: Callable[[], None]
) -> None:
    seen: list[CallRecord] = []
    session.on_record(callback)
    session.on_record(seen.append)
    for tool in ("first", "second"):
        with agentcgroup.call(tool):
            body()
    assert until(lambda: len(seen) == 2, timeout=10)
