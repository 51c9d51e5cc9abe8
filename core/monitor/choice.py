"""Which source is taken, and why not the ones before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from agentcgroup.monitor.source import Source, Unavailable

__all__ = ["choose", "order"]


def _procs(_detail: str, _stop: bool) -> Source:
    from agentcgroup.monitor.procs import Connector

    return Connector()


def _libbpf(detail: str, stop: bool) -> Source:
    try:
        from agentcgroup.monitor.bpf import Bpf
    except ImportError as error:  # an installation without that part
        raise Unavailable(f"agentcgroup.bpf is not installed: {error}") from error
    return Bpf(detail, stop=stop)


_SOURCES: Final[Mapping[str, Callable[[str, bool], Source]]] = {"libbpf": _libbpf, "procs": _procs}


def order(backend: str) -> tuple[str, ...]:
    """Return the sources to try for a backend of the configuration, the best first."""
    if backend == "auto":
        return ("libbpf", "procs")
    return () if backend == "off" else (backend,)


def choose(
    backend: str, detail: str, *, stop: bool
) -> tuple[Source | None, list[tuple[str, str, str | None]]]:
    """Open the first source that can be had; also (name, reason, fix) of those that cannot.

    Args:
        backend: as configured.
        detail: as configured.
        stop: a process that is born outside is to stand still, where the source can do that.
    """
    refused: list[tuple[str, str, str | None]] = []
    for name in order(backend):
        try:
            return _SOURCES[name](detail, stop), refused
        except Unavailable as error:
            refused.append((name, error.reason, error.fix))
    return None, refused
