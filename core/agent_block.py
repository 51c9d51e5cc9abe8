"""The block that names the agent for the code inside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentcgroup import scope

__all__ = ["agent"]


@dataclass(frozen=True, slots=True)
class _Named:
    name: str
    limits: Mapping[str, Any]


class agent:
    """Name the agent for the calls inside: ``with agentcgroup.agent("coder", memory_max="4G"):``.

    A name that the framework itself gives a call wins over this one. The limits bound all calls of
    the agent together, as ``[limits.agent]`` does, and are written when its first call starts a
    process. Sync and async.
    """

    def __init__(self, name: str, **limits: Any) -> None:
        self._named = _Named(name, limits)

    def __enter__(self) -> None:
        before = scope.agent.get()
        try:
            self._token = scope.agent.set(self._named)
        except BaseException:  # of a signal handler: then `with` does not leave
            if scope.agent.get() is self._named:
                scope.agent.set(before)
            raise

    def __exit__(self, *_: object) -> None:
        try:
            scope.restore(scope.agent, self._token)
        except BaseException:  # of a signal handler, before it was restored or after
            scope.restore(scope.agent, self._token)
            raise

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()
