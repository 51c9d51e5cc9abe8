"""Sessions with a monitor, for each source that this machine has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import agentcgroup
from agentcgroup import Session
from agentcgroup.calls import ending
from agentcgroup.monitor import client
from tests.support.processes import SOON

__all__ = ["Register", "backend", "patient", "registered"]

Register = Callable[..., Session]


@pytest.fixture(params=["procs", "libbpf"])
def backend(request: pytest.FixtureRequest) -> str:
    """Return the name of a source."""
    name: str = request.param
    return name


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have records wait longer for the helper: the tests are not about how fast it answers."""
    for module in (ending, client):
        for name in ("HURRY", "PATIENCE"):
            monkeypatch.setattr(module, name, SOON)


@pytest.fixture
def registered(backend: str) -> Iterator[Register]:
    """Return a function that registers with a configuration, and waits until the source is on."""

    def register(**config: Any) -> Session:
        config["monitor"] = {"backend": backend, **config.get("monitor", {})}
        session = agentcgroup.register("langchain", config=config)
        session._services.monitor.start()
        assert session._services.monitor.wait(SOON), session._services.monitor.refused
        return session

    yield register
    agentcgroup.unregister()
