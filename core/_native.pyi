"""Types of the C extension; the docstrings are in core/native/*.c."""

from collections.abc import Callable
from typing import Any

class PlacementError(OSError): ...

# launch.c
def spawn_mode() -> tuple[str, int]: ...

# popen.c
def fork_exec(cgroup_fd: int, args: tuple[Any, ...], /) -> int | None: ...
def set_chdir_report(text: str, /) -> None: ...

# posix_spawn.c
def posix_spawn(
    cgroup_fd: int,
    path: Any,
    executables: list[bytes],
    argv: list[bytes],
    env: list[bytes] | None,
    actions: list[tuple[int, int, int, int, bytes]],
    attributes: int,
    pgroup: int,
    sigmask: int,
    sigdefault: int,
    sched_policy: int,
    sched_priority: int,
    /,
) -> int: ...

# system.c
def begin_system() -> int: ...
def end_system() -> None: ...
def start_shell(cgroup_fd: int, command: bytes, mask: int, /) -> int: ...
def wait(pid: int, /) -> int: ...

# fork.c
def set_fork_target(cgroup_fd: int, /) -> None: ...
def refuse_forks() -> None: ...
def clear_fork_target() -> None: ...
def fork_into(cgroup_fd: int, /) -> int: ...

# usage.c
def usage() -> tuple[int, int]: ...

# builtin.c
def builtin_like(
    original: Callable[..., Any], replacement: Callable[..., Any], /
) -> Callable[..., Any]: ...
