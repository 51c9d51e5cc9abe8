"""The BPF monitor on this machine's own kernel, in the default detail and in the full one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agentcgroup.bpf import Monitor
from agentcgroup.bpf.programs import Detail
from agentcgroup.cgroup import Cgroup
from tests.bpf_cases import CASES, Case


@pytest.fixture(params=["default", "full"])
def monitor(request: pytest.FixtureRequest) -> Iterator[Monitor]:
    detail: Detail = request.param
    with Monitor.open(detail=detail) as opened:
        yield opened


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_on_this_kernel(case: Case, monitor: Monitor, box: Cgroup) -> None:
    case(monitor, box)
