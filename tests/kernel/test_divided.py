"""A container engine in a call divides the call's cgroup, and the call's limits hold for all."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import agentcgroup
from agentcgroup import LimitExceeded, Session
from tests.kernel.support import MiB, processes_below

_DIVIDE = str(Path(__file__).parents[1] / "cases" / "divide.py")
_HOG = "x = []\nwhile True:\n    x.append(bytearray(1 << 20))\n"


def _divide(way: str) -> None:
    subprocess.run([sys.executable, "-IS", _DIVIDE, way], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("way", ["controllers", "deep"])
def test_a_divided_call_ends_whole(registered: Callable[..., Session], way: str) -> None:
    session = registered()
    with agentcgroup.call("engine"):
        _divide(way)
        subprocess.run(["true"], check=True)
        assert os.waitpid(os.fork() or os._exit(0), 0)[1] == 0
    (record,) = session.records
    assert (record.outcome, record.reason) == ("ok", "leftovers")
    assert record.cgroup is not None
    assert not os.path.exists(record.cgroup)
    assert processes_below(session) == []


def test_the_limits_of_a_divided_call_hold(registered: Callable[..., Session]) -> None:
    session = registered()

    def engine() -> None:
        with agentcgroup.call("engine", memory_max=64 * MiB):
            _divide("deep")
            subprocess.run([sys.executable, "-ISc", _HOG])

    with pytest.raises(LimitExceeded):
        engine()
    (record,) = session.records
    assert (record.outcome, record.reason) == ("oom", "memory_max")
    assert processes_below(session) == []
