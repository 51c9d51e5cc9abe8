"""The session of a test module's framework."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import agentcgroup
from agentcgroup import Session


@pytest.fixture
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    """Register the module's FRAMEWORK, with the module's RULES for the configuration."""
    module = request.module
    yield agentcgroup.register(module.FRAMEWORK, config={"rules": module.RULES})
    agentcgroup.unregister()
