"""The arguments of os.posix_spawn, checked and converted as CPython does it.

After this check only the kernel can find an error in the arguments, so a child on borrowed memory
has no argument to check.
"""

from __future__ import annotations

import errno
import operator
import os
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["UNSET", "Action", "Attribute", "SpawnRequest", "read_request"]

UNSET: Any = object()

#: (kind, fd, other, mode, path); `other` is the new number for dup2, and the flags for open.
Action = tuple[int, int, int, int, bytes]

OPEN, CLOSE, DUP2, CLOSEFROM = range(4)

#: From CPython's numbers; POSIX_SPAWN_CLOSEFROM came with 3.13.
_KINDS = {
    getattr(os, name): kind
    for name, kind in (
        ("POSIX_SPAWN_OPEN", OPEN),
        ("POSIX_SPAWN_CLOSE", CLOSE),
        ("POSIX_SPAWN_DUP2", DUP2),
        ("POSIX_SPAWN_CLOSEFROM", CLOSEFROM),
    )
    if hasattr(os, name)
}


class Attribute:
    """Bits of `SpawnRequest.attributes`; core/native/native.h has the same numbers."""

    SETPGROUP = 1
    RESETIDS = 2
    SETSID = 4
    SETSIGMASK = 8
    SETSIGDEF = 16
    SETSCHEDPARAM = 32
    SETSCHEDULER = 64


@dataclass(frozen=True, slots=True)
class SpawnRequest:
    """The checked arguments of one posix_spawn."""

    path: Any
    executables: list[bytes]
    argv: list[bytes]
    env: list[bytes] | None  # None: C's environ of this process
    actions: list[Action]
    attributes: int
    pgroup: int
    sigmask: int
    sigdefault: int
    policy: int
    priority: int


def read_request(
    name: str,
    path: Any,
    argv: Any,
    env: Any,
    *,
    search: bool,
    file_actions: Any = (),
    setpgroup: Any = UNSET,
    resetids: bool = False,
    setsid: bool = False,
    setsigmask: Any = UNSET,
    setsigdef: Any = UNSET,
    scheduler: Any = UNSET,
) -> SpawnRequest:
    """Return the checked arguments of os.posix_spawn, or with `search` of os.posix_spawnp.

    Raises:
        TypeError, ValueError, OSError: as os.posix_spawn raises for the same arguments.
    """
    file = os.fsencode(path)
    attributes = Attribute.RESETIDS * bool(operator.index(resetids))
    attributes |= Attribute.SETSID * bool(operator.index(setsid))
    attributes |= Attribute.SETPGROUP * (setpgroup is not UNSET)
    attributes |= Attribute.SETSIGMASK * (setsigmask is not UNSET)
    attributes |= Attribute.SETSIGDEF * (setsigdef is not UNSET)
    policy, priority = None, 0
    if scheduler is not UNSET and scheduler is not None:
        policy, priority = _read_scheduler(scheduler)
        attributes |= Attribute.SETSCHEDPARAM if policy is None else Attribute.SETSCHEDULER
    return SpawnRequest(
        path=path,
        executables=_candidates(file) if search else [file],
        argv=_read_argv(name, argv),
        env=_read_env(name, env),
        actions=[_read_action(action) for action in file_actions or ()],
        attributes=attributes,
        pgroup=0 if setpgroup is UNSET else operator.index(setpgroup),
        sigmask=0 if setsigmask is UNSET else _read_signals(setsigmask),
        sigdefault=0 if setsigdef is UNSET else _read_signals(setsigdef),
        policy=policy or 0,
        priority=priority,
    )


def _candidates(file: bytes) -> list[bytes]:
    """Return the paths that posix_spawnp tries: it uses PATH of this process, not of the child."""
    if b"/" in file or not file:
        return [file]
    path = os.environb.get(b"PATH", os.fsencode(os.confstr("CS_PATH") or "/bin:/usr/bin"))
    return [os.path.join(folder, file) for folder in path.split(b":")]


def _read_argv(name: str, argv: Any) -> list[bytes]:
    if not isinstance(argv, (list, tuple)):
        raise TypeError(f"{name}: argv must be a tuple or list")
    if not argv:
        raise ValueError(f"{name}: argv must not be empty")
    words = [os.fsencode(word) for word in argv]
    if not words[0]:
        raise ValueError(f"{name}: argv first element cannot be empty")
    return words


def _read_env(name: str, env: Mapping[Any, Any] | None) -> list[bytes] | None:
    if env is None and sys.version_info >= (3, 13):
        return None
    if env is None or not hasattr(env, "keys") or not hasattr(env, "__getitem__"):
        raise TypeError(f"{name}: environment must be a mapping object")
    if env is os.environ and hasattr(env, "_data"):
        # Popen passes os.environ for every child; decoding and encoding it takes 50 us.
        return [name + b"=" + value for name, value in env._data.items()]
    pairs = []
    for key, value in env.items():
        raw = os.fsencode(key)
        if b"=" in raw[1:]:
            raise ValueError("illegal environment variable name")
        pairs.append(raw + b"=" + os.fsencode(value))
    return pairs


def _read_action(action: Any) -> Action:
    if not isinstance(action, tuple) or not action:
        raise TypeError("Each file_actions element must be a non-empty tuple")
    tag, *rest = action
    kind = _KINDS.get(tag) if isinstance(tag, int) else None
    if kind is None:
        raise TypeError("Unknown file_actions identifier")
    if len(rest) != {OPEN: 4, CLOSE: 1, DUP2: 2, CLOSEFROM: 1}[kind]:
        raise TypeError("A file_actions element has the wrong number of items")
    fd = _read_fd(rest[0])
    if kind == OPEN:
        path = os.fsencode(rest[1])
        if b"\0" in path:
            raise ValueError("embedded null byte")
        return kind, fd, operator.index(rest[2]), operator.index(rest[3]), path
    return kind, fd, _read_fd(rest[1]) if kind == DUP2 else 0, 0, b""


def _read_fd(value: Any) -> int:
    fd = operator.index(value)
    if fd < 0:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return fd


def _read_signals(signals: Iterable[Any]) -> int:
    """Return the set of signals as a number; its bit n - 1 stands for signal n."""
    mask = 0
    for item in signals:
        number = operator.index(item)
        if not 0 < number < signal.NSIG:
            raise ValueError(f"signal number {number} out of range [1; {signal.NSIG - 1}]")
        mask |= 1 << (number - 1)
    return mask


def _read_scheduler(scheduler: Sequence[Any]) -> tuple[int | None, int]:
    if not isinstance(scheduler, tuple) or len(scheduler) != 2:
        raise TypeError("A scheduler tuple must have two elements")
    policy, param = scheduler
    if not isinstance(param, os.sched_param):
        raise TypeError("must have a sched_param object")
    return None if policy is None else operator.index(policy), param.sched_priority
