"""The monitor with every controller on: records, and the escape net."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import pytest

from agentcgroup import Session
from tests import escape_cases
from tests.escape_cases import WAYS, escapes
from tests.kernel.support import record_tells_what_ran

__all__ = ["escapes"]

Register = Callable[..., Session]

#: Of each way; natively it is 600, here a move alone takes 15 ms.
_ROUNDS = 20


@pytest.fixture(params=["procs", "libbpf"])
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def _watched(session: Session) -> Session:
    session.monitor.start()
    assert session.monitor.wait(60), session.monitor.refused
    return session


@pytest.mark.timeout(600)
def test_a_record_tells_what_ran_and_how_it_ended(registered: Register, backend: str) -> None:
    session = _watched(registered(monitor={"backend": backend}))
    assert session.monitor.source == backend
    record_tells_what_ran(session)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("way", WAYS)
def test_what_is_born_outside_is_brought_in(
    registered: Register, escapes: ctypes.PyDLL, backend: str, way: str
) -> None:
    session = _watched(registered(monitor={"backend": backend}))
    escape_cases.born_outside(session, escapes, way, _ROUNDS)


@pytest.mark.timeout(900)
def test_what_leaves_is_brought_back(registered: Register, backend: str) -> None:
    escape_cases.left(_watched(registered(monitor={"backend": backend})), _ROUNDS)


@pytest.mark.timeout(600)
def test_what_leaves_ends_the_call_where_that_is_asked(registered: Register, backend: str) -> None:
    session = _watched(registered(monitor={"backend": backend, "escape": "kill"}))
    record = escape_cases.left_and_the_call_ends(session)
    assert (record.outcome, record.reason, record.escapes) == ("killed", "escape", 1)
