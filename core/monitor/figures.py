"""The figures of a `CallRecord`, made from the helper's answer about a call's cgroup."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from agentcgroup.monitor import wire
from agentcgroup.records.record import Program

__all__ = ["figures"]

#: Figures of a record, the kernel's counters (`bpf.Counters`) they are made of, and the factor.
_FIGURES: Final = (
    ("run_delay_s", "run_delay_ns", 1e-9),
    ("memory_charged_bytes", "memory_charged_bytes", 1),
    ("reclaim_s", "reclaim_ns", 1e-9),
    ("memory_high_s", "memory_high_ns", 1e-9),
    ("files_opened", "files_opened", 1),
    ("net_rx_bytes", "net_rx_bytes", 1),
    ("net_tx_bytes", "net_tx_bytes", 1),
)


def figures(answer: wire.Message, source: str | None) -> Mapping[str, Any] | None:
    """Return an answer "end" of the helper by the names of `CallRecord`.

    None when the helper has no entry for the cgroup. A figure that the source lacks is absent.

    Args:
        answer: the message.
        source: name of the source that the helper uses.
    """
    known = {key: value for key, value in answer.items() if key not in ("is", "id")}
    if not known:
        return None
    if "programs" in known:
        known["programs"] = tuple(Program(**one) for one in known["programs"])
    counted = _counted(known.pop("counters", {}))
    return {"monitor": source, **known, **counted}


def _counted(counters: Mapping[str, int | None]) -> dict[str, Any]:
    """Turn counters of the kernel into figures of a record; absent stays absent."""
    return {
        name: count * unit
        for name, counter, unit in _FIGURES
        if (count := counters.get(counter)) is not None
    }
