"""The escape net on this machine, by each source that it has."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import agentcgroup
from agentcgroup import Session
from tests import escape_cases
from tests.escape_cases import ROUNDS, WAYS, escapes

__all__ = ["escapes"]


@pytest.fixture(params=["procs", "libbpf"])
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def registered() -> Iterator[Callable[..., Session]]:
    def register(**monitor: Any) -> Session:
        session = agentcgroup.register("langchain", config={"monitor": monitor})
        session.monitor.start()
        assert session.monitor.wait(20), session.monitor.refused
        return session

    yield register
    agentcgroup.unregister()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", WAYS)
def test_what_is_born_outside_is_brought_in(
    registered: Callable[..., Session], escapes: ctypes.PyDLL, backend: str, way: str
) -> None:
    escape_cases.born_outside(registered(backend=backend), escapes, way, ROUNDS)


@pytest.mark.timeout(300)
def test_what_leaves_is_brought_back(registered: Callable[..., Session], backend: str) -> None:
    escape_cases.left(registered(backend=backend), ROUNDS // 4)


def test_what_leaves_ends_the_call_where_that_is_asked(
    registered: Callable[..., Session], backend: str
) -> None:
    record = escape_cases.left_and_the_call_ends(registered(backend=backend, escape="kill"))
    assert (record.outcome, record.reason, record.escapes) == ("killed", "escape", 1)


@pytest.mark.parametrize("way", WAYS)
def test_what_outlives_its_call_unseen_is_ended(
    registered: Callable[..., Session], escapes: ctypes.PyDLL, backend: str, way: str
) -> None:
    escape_cases.outlived(registered(backend=backend), escapes, way)
