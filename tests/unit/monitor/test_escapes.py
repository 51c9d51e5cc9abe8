"""The return of escapes on this machine, by each source that it has."""

from __future__ import annotations

import ctypes

import pytest

from tests.cases import escapes as escape_cases
from tests.cases.escapes import ROUNDS, WAYS, escapes
from tests.support.monitored import Register, backend, patient, registered

__all__ = ["backend", "escapes", "patient", "registered"]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("way", WAYS)
def test_a_process_born_outside_is_moved_in(
    registered: Register, escapes: ctypes.PyDLL, way: str
) -> None:
    # A daemon is a leftover: each round waits for it to end after SIGTERM.
    rounds = ROUNDS // 4 if way == "by_double_fork" else ROUNDS
    escape_cases.born_outside(registered(), escapes, way, rounds)


@pytest.mark.timeout(900)
def test_a_process_that_leaves_is_moved_back(registered: Register) -> None:
    escape_cases.left(registered(), ROUNDS // 4)


def test_a_process_that_leaves_ends_the_call_with_escape_kill(registered: Register) -> None:
    record = escape_cases.left_and_the_call_ends(registered(monitor={"escape": "kill"}))
    assert (record.outcome, record.reason, record.escapes) == ("killed", "escape", 1)


@pytest.mark.parametrize("way", WAYS)
def test_a_process_born_outside_that_outlives_its_call_is_killed(
    registered: Register, escapes: ctypes.PyDLL, way: str
) -> None:
    escape_cases.outlived(registered(), escapes, way)
