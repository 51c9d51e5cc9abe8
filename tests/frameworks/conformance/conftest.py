"""The columns of the table; after each cell no process and no cgroup is left."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import pytest

import agentcgroup
from agentcgroup import Session
from tests.frameworks.conformance.driver import DRIVERS, Driver, load
from tests.support.processes import until

_TOKEN = "AGENTCGROUP_CONFORMANCE"

#: The configuration of every cell: tools whose name starts with "slow" have two seconds, and the
#: bodies of tools with "isolated" in their name run in a worker.
CONFIG = {
    "rules": [
        {"tool": "slow*", "timeout": "2s"},
        {"tool": "*isolated*", "isolation": "process"},
        {"tool": "lenient_isolated*", "on_unshippable": "inline"},
    ]
}


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> Driver:
    """Return the driver of the column; skip a cell that the framework cannot have."""
    driver = load(request.param)
    row = request.function.__name__.removeprefix("test_")
    if row in driver.absent:
        pytest.skip(f"{request.param} has no {row}: {driver.absent[row]}")
    return driver


@pytest.fixture
def session(driver: Driver, nothing_left: None) -> Iterator[Session]:
    """Register the framework; afterwards assert that the run's cgroups are removed."""
    session = agentcgroup.register(driver.framework, config=CONFIG)
    run = session._services.cgroups.branch()
    assert run is not None, "these tests need a place for cgroups"
    yield session
    agentcgroup.unregister()
    assert not os.path.exists(run.cgroup.path)


@pytest.fixture
def nothing_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Mark every process that starts from here on; afterwards assert that all have ended."""
    token = secrets.token_hex(8)
    monkeypatch.setenv(_TOKEN, token)
    yield
    assert until(lambda: not processes(token))


@pytest.fixture
def token(nothing_left: None) -> str:
    """Return the mark in the environment of this cell's processes."""
    return os.environ[_TOKEN]


def processes(token: str) -> list[str]:
    """Return the command lines of all processes with this mark, orphans included."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as environ:
                if f"{_TOKEN}={token}".encode() in environ.read():
                    with open(f"/proc/{pid}/cmdline", "rb") as command:
                        found.append(command.read().replace(b"\0", b" ").decode())
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # gone, or somebody else's
    return found
