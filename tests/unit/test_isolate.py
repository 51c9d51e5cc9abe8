"""The functions that the decorator `isolate` accepts as the body of a call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import agentcgroup


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    agentcgroup.register("langchain", config={})
    yield
    agentcgroup.unregister()


def _steps() -> Iterator[None]:
    yield


async def _asteps() -> AsyncIterator[None]:
    yield


@pytest.mark.parametrize("function", [_steps, _asteps])
def test_a_generator_function_is_refused(function: Callable[[], Any]) -> None:
    """Its body would run after the call, outside of the call's cgroup."""
    with pytest.raises(TypeError, match="generator function"):
        agentcgroup.isolate(function)


def test_an_object_that_is_called_like_a_coroutine_function_is_awaited_in_the_call() -> None:
    class Tool:
        async def __call__(self) -> object:
            return agentcgroup.current_call()

    isolated = agentcgroup.isolate("tool")(Tool())
    assert asyncio.run(isolated()) is not None
