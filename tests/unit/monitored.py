"""Sessions with a monitor, by each source that this machine has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import agentcgroup
from agentcgroup import Session

__all__ = ["Register", "backend", "registered"]

Register = Callable[..., Session]


@pytest.fixture(params=["procs", "libbpf"])
def backend(request: pytest.FixtureRequest) -> str:
    """Give the name of a source."""
    name: str = request.param
    return name


@pytest.fixture
def registered(backend: str) -> Iterator[Register]:
    """Register with a configuration and this source, and wait for the monitor to be there."""

    def register(**config: Any) -> Session:
        config["monitor"] = {"backend": backend, **config.get("monitor", {})}
        session = agentcgroup.register("langchain", config=config)
        session.monitor.start()
        assert session.monitor.wait(20), session.monitor.refused
        return session

    yield register
    agentcgroup.unregister()
