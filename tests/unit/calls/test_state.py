"""The states of a call, and what is not allowed in them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agentcgroup import Session
from agentcgroup.calls import lifecycle
from agentcgroup.calls.call import Call
from agentcgroup.calls.ending import finish
from agentcgroup.config.tables import Config


@pytest.fixture
def session() -> Iterator[Session]:
    with Session(Config()) as session:
        yield session


@pytest.fixture
def call(session: Session) -> Call:
    return lifecycle.open_call(session._services, "python", None, "tool")


def test_a_call_goes_from_opened_to_settled(call: Call) -> None:
    states = [call.state]
    call.begin()
    states.append(call.state)
    call.end()
    states.append(call.state)
    call.judge("ok", None)
    call.settle()
    states.append(call.state)
    assert states == ["opened", "running", "ended", "settled"]


def test_the_first_reason_to_stop_stands(call: Call) -> None:
    call.begin()
    assert call.request_stop("timeout")
    assert call.request_stop("cancelled")
    assert (call.state, call.stopped) == ("stopping", "timeout")
    call.end()
    assert not call.request_stop("memory_max")
    assert (call.state, call.stopped) == ("ended", "timeout")


def test_a_call_that_never_began_can_be_stopped_and_end(call: Call) -> None:
    call.stop("cancelled")
    finish(call)
    assert (call.state, call.record.outcome) == ("settled", "cancelled")


def test_a_call_that_outlived_its_stop_is_no_longer_the_runs(call: Call) -> None:
    call.begin()
    assert not call.outlived
    call.end(cancelled=True)
    assert not call.outlived
    assert call.stopped == "cancelled"


@pytest.mark.parametrize(
    ("before", "transition"),
    [
        ((), "judge"),
        ((), "settle"),
        (("begin",), "begin"),
        (("begin",), "judge"),
        (("begin",), "settle"),
        (("begin", "end"), "begin"),
        (("begin", "end"), "end"),
        (("begin", "end"), "settle"),
        (("begin", "end", "judge"), "judge"),
        (("begin", "end", "judge", "settle"), "settle"),
    ],
)
def test_other_transitions_raise(call: Call, before: tuple[str, ...], transition: str) -> None:
    arguments = {"judge": ("ok", None)}
    for name in before:
        getattr(call, name)(*arguments.get(name, ()))
    state = call.state
    with pytest.raises(RuntimeError, match=f"is {state} and cannot"):
        getattr(call, transition)(*arguments.get(transition, ()))
    assert call.state == state


def test_a_record_needs_an_end(call: Call) -> None:
    with pytest.raises(RuntimeError, match="has not ended"):
        _ = call.record


def test_a_session_shows_its_user_what_is_for_users(session: Session) -> None:
    shown = [name for name in dir(session) if not name.startswith("_")]
    assert shown == ["close", "on_event", "on_record", "records", "stream"]
