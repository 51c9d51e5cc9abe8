"""A user without rights, who may read all the same: a checkout may lie in root's own folder."""

from __future__ import annotations

from typing import Final

__all__ = ["AS_NOBODY"]

_READING: Final = "+dac_read_search"

#: What to put before a command, as root.
AS_NOBODY: Final = (
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    f"--inh-caps=-all,{_READING}",
    f"--ambient-caps=-all,{_READING}",
    f"--bounding-set=-all,{_READING}",
)
