"""The io controller: io.weight, io.max, io.latency, io.stat (cgroup-v2.rst, "IO")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from agentcgroup.cgroup import files
from agentcgroup.cgroup.device_forms import LATENCY, RATE, Bounds, PerDevice
from agentcgroup.cgroup.files import Directory
from agentcgroup.cgroup.forms import Quantity, Weight
from agentcgroup.cgroup.limit import limit
from agentcgroup.cgroup.stats import nested

__all__ = ["IoLimits", "totals"]

_BOUNDS: Final = Bounds(
    "IoBounds",
    "Bounds for one block device (io.max).",
    {
        "rbps": (RATE, "Bytes read per second."),
        "wbps": (RATE, "Bytes written per second."),
        "riops": (RATE, "Read operations per second."),
        "wiops": (RATE, "Write operations per second."),
    },
)


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class IoLimits:
    """The limits of the io controller.

    A table by device has no hash of its own: `Limits` that differ only there are compared.
    """

    io_weight: int | None = field(
        default=None,
        metadata=limit(
            "io.weight",
            Weight(prefix="default "),
            "Share of contended disk time, 1 to 10000",
            example="100",
            needs="CONFIG_BLK_CGROUP_IOCOST",
        ),
    )
    io_max: Mapping[str, Mapping[str, Quantity]] | None = field(
        default=None,
        hash=False,
        metadata=limit(
            "io.max",
            PerDevice(_BOUNDS, {"8:0": {"rbps": "10M", "wiops": 100}}),
            "Bounds by block device, 'MAJOR:MINOR' as lsblk shows it",
            example='{ "8:0" = { rbps = "50M", wbps = "20M" } }',
        ),
    )
    io_latency: Mapping[str, Quantity] | None = field(
        default=None,
        hash=False,
        metadata=limit(
            "io.latency",
            PerDevice(LATENCY, {"8:0": "5ms"}),
            "Latency target by block device, met by throttling siblings with a higher target",
            example='{ "8:0" = "5ms" }',
            since="4.19",
            needs="CONFIG_BLK_CGROUP_IOLATENCY",
        ),
    )


def totals(directory: Directory) -> tuple[int, int] | None:
    """Return (bytes read, bytes written) over all devices, None without the controller."""
    text = directory.read_optional(files.IO_STAT)
    if text is None:
        return None
    devices = nested(text).values()
    return (
        sum(int(device.get("rbytes", 0)) for device in devices),
        sum(int(device.get("wbytes", 0)) for device in devices),
    )
