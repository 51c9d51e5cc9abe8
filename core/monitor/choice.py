"""The choice of a source, and why the ones before it do not work here.

"auto" tries the source first that reports most for its cost. BPF programs that are compiled already
report the most. The process connector reports the life cycle of processes at no cost at all, so it
comes before BCC, which reports the same and first compiles for seconds, with more than 100 MB. BCC
serves machines where neither of the others works, as without BTF and without CAP_NET_ADMIN, and
users who configure it by name.
"""

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


def _bcc(_detail: str, _stop: bool) -> Source:
    try:
        from agentcgroup.monitor.bcc import Bcc
    except ImportError as error:  # as above
        raise Unavailable(f"agentcgroup.bpf is not installed: {error}") from error
    return Bcc()


#: By their names in the configuration, the best first.
_SOURCES: Final[Mapping[str, Callable[[str, bool], Source]]] = {
    "libbpf": _libbpf,
    "procs": _procs,
    "bcc": _bcc,
}


def order(backend: str) -> tuple[str, ...]:
    """Return the sources to try for a backend of the configuration, the best first."""
    if backend == "auto":
        return tuple(_SOURCES)
    return () if backend == "off" else (backend,)


def choose(
    backend: str, detail: str, *, stop: bool
) -> tuple[Source | None, list[tuple[str, str, str | None]]]:
    """Open the first source that works; returns it with (name, reason, fix) of those before it.

    Args:
        backend: as configured.
        detail: as configured.
        stop: stop a process that is born outside, where the source can do that.

    Returns:
        The source, None where none works; and the sources that were tried and do not work.
    """
    refused: list[tuple[str, str, str | None]] = []
    for name in order(backend):
        try:
            return _SOURCES[name](detail, stop), refused
        except Unavailable as error:
            refused.append((name, error.reason, error.fix))
    return None, refused
