"""Reading what the host offers to this process; `place` decides what follows from it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from agentcgroup.cgroup import files

__all__ = ["HostFacts", "Mount", "controls", "delegated_above", "is_charged", "own_cgroup", "probe"]

#: The attributes that systemd sets on the cgroup of a unit with Delegate=yes; user.* since 251.
_DELEGATE_XATTRS: Final = ("user.delegate", "trusted.delegate")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One mount of the cgroup v2 hierarchy, as /proc/self/mountinfo shows it.

    Attributes:
        point: the path it is mounted at.
        root: the cgroup that is visible there, relative to this process's cgroup namespace.
        read_only: whether it is mounted read-only.
        true_root: whether `root` is the root of the machine's hierarchy, which alone has no
            cgroup.type.
    """

    point: str
    root: str
    read_only: bool
    true_root: bool

    def locate(self, cgroup: str) -> str | None:
        """Return the path of a cgroup, given as in /proc/PID/cgroup; None if not visible here."""
        if ".." in cgroup.split("/") or ".." in self.root.split("/"):
            return None
        if self.root == "/":
            return (self.point + cgroup).rstrip("/")
        if cgroup == self.root or cgroup.startswith(self.root + "/"):
            return self.point + cgroup[len(self.root) :]
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """The host as this process sees it.

    Attributes:
        mount: the mount of cgroup v2 to work with, None when there is none.
        own: this process's cgroup as in /proc/self/cgroup, None without cgroup v2.
        own_path: the directory of `own` under `mount`, None when it is not visible there.
        v1_controllers: controllers that are bound to cgroup v1 hierarchies.
        systemd: systemd manages this machine, or this container (/run/systemd/system).
        uid: effective user id.
    """

    mount: Mount | None
    own: str | None
    own_path: str | None
    v1_controllers: frozenset[str]
    systemd: bool
    uid: int


def probe() -> HostFacts:
    """Read the host once; changes nothing."""
    mount, own = _best_mount(), own_cgroup()
    return HostFacts(
        mount=mount,
        own=own,
        own_path=mount.locate(own) if mount is not None and own is not None else None,
        v1_controllers=_v1_controllers(),
        systemd=os.path.isdir("/run/systemd/system"),
        uid=os.geteuid(),
    )


def is_charged() -> bool:
    """Return whether this process's memory is charged to a cgroup v2; in the root it is not."""
    host = probe()
    mount, path = host.mount, host.own_path
    if mount is None or path is None or "memory" in host.v1_controllers:
        return False
    return not (mount.true_root and path == mount.point)


def controls(path: str) -> bool:
    """Return whether this process may make children, enable controllers and move processes."""
    needed = (path, f"{path}/{files.PROCS}", f"{path}/{files.SUBTREE_CONTROL}")
    return all(os.access(file, os.W_OK) for file in needed)


def delegated_above(path: str, mount: str) -> str | None:
    """Return the nearest cgroup, `path` or above it, that systemd has delegated to programs.

    A cgroup with an init.scope of its own was delegated to another systemd, the user's or a
    container's, and is not to be divided.
    """
    while path.startswith(mount + "/"):
        if any(_xattr(path, name) == b"1" for name in _DELEGATE_XATTRS):
            return None if os.path.isdir(f"{path}/init.scope") else path
        path = os.path.dirname(path)
    return None


def parse_mounts(mountinfo: str) -> list[tuple[int, str, str, bool]]:
    """Return (mount id, mount point, root, read-only) of each cgroup2 line of a mountinfo text."""
    found = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, super_options = [*after.split(" "), "", ""][:3]
        if kind != "cgroup2":
            continue
        number, _, _, root, point, options, *_ = before.split(" ")
        read_only = "ro" in options.split(",") or "ro" in super_options.split(",")
        found.append((int(number), _unescaped(point), _unescaped(root), read_only))
    return found


def _best_mount() -> Mount | None:
    """Return the best mount: writable before read-only, then the one that shows most."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        mounts = [
            Mount(point=point, root=root, read_only=read_only, true_root=_is_true_root(point))
            for number, point, root, read_only in parse_mounts(file.read())
            if number == _mount_seen_at(point)
        ]
    return min(
        mounts, key=lambda mount: (mount.read_only, not mount.true_root, mount.root), default=None
    )


def _mount_seen_at(point: str) -> int | None:
    """Return the id of the topmost mount at a path, which hides the others."""
    try:
        fd = os.open(point, os.O_PATH)
    except OSError:
        return None
    try:
        return files.mount_id(fd)
    finally:
        os.close(fd)


def _is_true_root(point: str) -> bool:
    return not os.path.exists(f"{point}/{files.TYPE}")


def own_cgroup() -> str | None:
    """Return the cgroup of this process as in /proc/self/cgroup, None without cgroup v2."""
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            if line.startswith("0::"):
                return line[3:].rstrip("\n")
    return None


def _v1_controllers() -> frozenset[str]:
    found: set[str] = set()
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            number, names, _ = line.split(":", 2)
            if number != "0":
                found.update(name for name in names.split(",") if not name.startswith("name="))
    return frozenset(found - {""})


def _unescaped(field: str) -> str:
    """Undo the octal escapes of mountinfo: space, tab, line break and backslash."""
    for code in ("\\040", "\\011", "\\012", "\\134"):
        field = field.replace(code, chr(int(code[1:], 8)))
    return field


def _xattr(path: str, name: str) -> bytes | None:
    try:
        return os.getxattr(path, name)
    except OSError:
        return None
