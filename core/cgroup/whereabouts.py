"""In which cgroup a process is, as a path that can be opened here."""

from __future__ import annotations

from agentcgroup.cgroup.probe import probe

__all__ = ["Whereabouts"]

#: What the kernel writes behind the path of a cgroup that was removed (seq_puts of cgroup.c).
_DELETED = " (deleted)"


class Whereabouts:
    """Finds processes; looks for the mount of cgroup v2 once."""

    def __init__(self) -> None:
        self._mount = probe().mount

    def of(self, pid: int) -> str | None:
        """Return the directory of a process's cgroup; a zombie still has one.

        "" for one that is not visible here; None when the process is gone, or its cgroup is.
        """
        try:
            with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
                lines = file.read().splitlines()
        except OSError:
            return None
        for line in lines:
            if line.startswith("0::") and self._mount is not None and not line.endswith(_DELETED):
                return self._mount.locate(line[3:]) or ""
        return None
