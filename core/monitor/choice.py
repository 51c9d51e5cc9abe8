"""Which source is taken, and why not the ones before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from agentcgroup.monitor.source import Source, Unavailable

__all__ = ["choose", "order"]


def _procs(detail: str) -> Source:
    from agentcgroup.monitor.procs import Connector

    del detail  # there is no more to be had
    return Connector()


def _libbpf(detail: str) -> Source:
    try:
        from agentcgroup.monitor.bpf import Bpf
    except ImportError as error:  # an installation without that part
        raise Unavailable(f"agentcgroup.bpf is not installed: {error}") from error
    return Bpf(detail)


_SOURCES: Final[Mapping[str, Callable[[str], Source]]] = {"libbpf": _libbpf, "procs": _procs}


def order(backend: str) -> tuple[str, ...]:
    """Return the sources to try for a backend of the configuration, the best first."""
    if backend == "auto":
        return ("libbpf", "procs")
    return () if backend == "off" else (backend,)


def choose(backend: str, detail: str) -> tuple[Source | None, list[tuple[str, str, str | None]]]:
    """Open the first source that can be had; also (name, reason, fix) of those that cannot."""
    refused: list[tuple[str, str, str | None]] = []
    for name in order(backend):
        try:
            return _SOURCES[name](detail), refused
        except Unavailable as error:
            refused.append((name, error.reason, error.fix))
    return None, refused
