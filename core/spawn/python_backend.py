"""The backend without the C extension: every spawn is a fork, and the child moves itself.

Each child costs a copy of this process's page tables and an RCU grace period, about 10 ms. A
machine that has neither a compiler nor a wheel of this package has only this backend.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from typing import Any, NoReturn

from agentcgroup import syscalls
from agentcgroup.spawn.backend import ForkExec, Mode
from agentcgroup.spawn.fork_hooks import without_fork_hooks
from agentcgroup.spawn.placement import migrate, open_procs, refuse_divided
from agentcgroup.spawn.spawn_request import CLOSE, CLOSEFROM, DUP2, Action, Attribute, SpawnRequest
from agentcgroup.threads import local

__all__ = ["PythonBackend"]

#: The exit status of a shell for "found, but could not be executed", and for "not found".
_REFUSED, _NOT_FOUND = 126, 127

#: The index of preexec_fn in the arguments of fork_exec, by their number (Python 3.10; 3.14;
#: 3.11 to 3.13).
_PREEXEC = {21: 20, 22: 21, 23: 21}

#: The builtin: this module is imported before `install` replaces it.
_fork = os.fork


class _ForkTarget(local):
    """Where the children that this thread forks belong."""

    procs: int | None = None
    refused = False


class _Builtin(staticmethod):  # type: ignore[type-arg]
    """Does not bind to an instance, as a builtin does not, and pickles by its name."""

    def __init__(self, name: str, replacement: Callable[..., Any]) -> None:
        super().__init__(replacement)
        self._name = name

    def __reduce__(self) -> str:
        return self._name


class _SystemCalls(local):
    """The calls of os.system that this thread is in."""

    def __init__(self) -> None:
        self.masks: list[set[int]] = []  # the former signal mask of each


class PythonBackend:
    """Creates children by fork; the child writes "0" to cgroup.procs before anything else."""

    def __init__(self) -> None:
        self._fork_target = _ForkTarget()
        self._system = _SystemCalls()

    def mode(self) -> tuple[Mode, str | None]:
        """Return "fork"."""
        return "fork", "the C extension is missing, or switched off by AGENTCGROUP_PURE"

    def builtin_like(
        self,
        original: Callable[..., Any],
        replacement: Callable[..., Any],
        get: Callable[[], Any],  # noqa: ARG002 - it saves time only in C
    ) -> Callable[..., Any]:
        """Return what pickles and binds as the builtin `original`, and calls `replacement`."""
        replacement.__annotations__ = {}  # a builtin has none, and these have no module to resolve
        return _Builtin(original.__name__, replacement)

    def fork_exec(self, fd: int, args: tuple[Any, ...], original: ForkExec) -> int:
        """Make fork_exec fork; the child moves itself in the fork hook, before its other steps."""
        index = _PREEXEC.get(len(args))
        if index is None:
            pid = original(*args)
            migrate(fd, pid)
            return pid
        # fork_exec forks, and runs the fork hooks that place the child, only with a preexec_fn.
        preexec = args[index] or _nothing
        return self._placed_fork(fd, lambda: original(*args[:index], preexec, *args[index + 1 :]))

    def posix_spawn(self, fd: int, request: SpawnRequest) -> int:
        """Fork; the child takes the steps of POSIX posix_spawn in Python."""
        read_end, write_end = os.pipe()
        try:
            pid = self._placed_fork(fd, _fork)
            if pid == 0:
                _execute_request(request, write_end)
        finally:
            syscalls.close(write_end)
        try:
            error = syscalls.read(read_end, 16)  # b"" once the program is executed
        finally:
            syscalls.close(read_end)
        if error:
            os.waitpid(pid, 0)
            raise OSError(int(error), os.strerror(int(error)), request.path)
        return pid

    def begin_system(self) -> int:
        """Block SIGCHLD, SIGINT and SIGQUIT in this thread.

        system(3) ignores the latter two, but Python can set dispositions in its main thread only.
        """
        masks, blocked = self._system.masks, {signal.SIGCHLD, signal.SIGINT, signal.SIGQUIT}
        masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))  # kept before it changes
        signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        return sum(1 << (number - 1) for number in masks[-1])

    def end_system(self) -> None:
        """Restore this thread's signal mask."""
        if self._system.masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._system.masks.pop())

    def start_shell(self, fd: int | None, command: bytes, mask: int) -> int:
        """Fork; the child executes /bin/sh."""
        pid = self._placed_fork(fd, _fork)
        if pid == 0:
            signal.pthread_sigmask(signal.SIG_SETMASK, _signals_of(mask))
            _execute([b"/bin/sh"], [b"sh", b"-c", command], None)
            os._exit(_NOT_FOUND)
        return pid

    def wait(self, pid: int) -> int:
        """Wait for the shell; a Python signal handler can run and raise during the wait."""
        try:
            return os.waitpid(pid, 0)[1]
        except ChildProcessError:
            return -1

    def set_fork_target(self, fd: int) -> None:
        """Open the cgroup.procs that the children of this thread will write to."""
        self.clear_fork_target()
        refuse_divided(fd)
        self._fork_target.procs = open_procs(fd)

    def refuse_forks(self) -> None:
        """Make the children of this thread exit before they run anything."""
        self.clear_fork_target()
        self._fork_target.refused = True

    def clear_fork_target(self) -> None:
        """Leave the children of this thread in this process's cgroup."""
        procs, self._fork_target.procs = self._fork_target.procs, None
        self._fork_target.refused = False
        if procs is not None:
            syscalls.close(procs)

    def after_fork_in_child(self) -> None:
        """Move this child into the cgroup; where that fails, exit with a line on stderr."""
        if self._fork_target.refused:
            _refuse("its tool call takes no more processes")
        if self._fork_target.procs is not None:
            try:
                syscalls.write(self._fork_target.procs, b"0")
            except OSError as error:
                _refuse(f"it could not join its tool call's cgroup ({error})")
            self.clear_fork_target()

    def _placed_fork(self, fd: int | None, fork: Callable[[], int]) -> int:
        with without_fork_hooks():
            try:
                if fd is not None:
                    self.set_fork_target(fd)
                return fork()
            finally:
                self.clear_fork_target()


def _nothing() -> None:
    pass


def _refuse(why: str) -> NoReturn:
    syscalls.write(2, f"agentcgroup: process refused: {why}\n".encode())
    os._exit(_REFUSED)


def _signals_of(mask: int) -> list[int]:
    return [number for number in range(1, signal.NSIG) if mask >> (number - 1) & 1]


def _execute_request(request: SpawnRequest, failure: int) -> NoReturn:
    """Execute the program of `request` in this forked child, or write the errno and exit."""
    error: OSError | None = None
    try:
        _apply_attributes(request)
        for action in request.actions:
            _do_action(action)
        if request.attributes & Attribute.SETSIGMASK:
            signal.pthread_sigmask(signal.SIG_SETMASK, _signals_of(request.sigmask))
        env = None
        if request.env is not None:
            env = dict(pair.split(b"=", 1) for pair in request.env)
        error = _execute(request.executables, request.argv, env)
    except OSError as caught:
        error = caught
    finally:
        # After any exception, too: the parent's code must not continue in this copy.
        number = error.errno if error is not None else None
        syscalls.write(failure, b"%d" % (number or errno.EINVAL))
        os._exit(_NOT_FOUND)


def _execute(
    executables: list[bytes], argv: list[bytes], env: dict[bytes, bytes] | None
) -> OSError | None:
    """Execute the first program that can be executed; return the error if none can.

    A missing file counts least: any other error takes precedence over it.
    """
    failed: OSError | None = None
    for path in executables:
        try:
            os.execv(path, argv) if env is None else os.execve(path, argv, env)
        except (FileNotFoundError, NotADirectoryError) as error:
            failed = failed or error
        except PermissionError as error:
            failed = error
        except OSError as error:
            return error
    return failed


def _apply_attributes(request: SpawnRequest) -> None:
    """Apply the attributes in the order of apply_attributes in core/native/posix_spawn.c."""
    attributes = request.attributes
    if attributes & Attribute.SETSIGDEF:
        for number in _signals_of(request.sigdefault):
            if number not in (signal.SIGKILL, signal.SIGSTOP):
                signal.signal(number, signal.SIG_DFL)
    if attributes & Attribute.SETSCHEDULER:
        os.sched_setscheduler(0, request.policy, os.sched_param(request.priority))
    elif attributes & Attribute.SETSCHEDPARAM:
        os.sched_setparam(0, os.sched_param(request.priority))
    if attributes & Attribute.SETSID:
        os.setsid()
    if attributes & Attribute.SETPGROUP:
        os.setpgid(0, request.pgroup)
    if attributes & Attribute.RESETIDS:
        os.setegid(os.getgid())
        os.seteuid(os.getuid())


def _do_action(action: Action) -> None:
    kind, fd, other, mode, path = action
    if kind == CLOSE:
        # POSIX: no error if it is not open.
        os.closerange(fd, fd + 1)
    elif kind == CLOSEFROM:
        os.closerange(fd, os.sysconf("SC_OPEN_MAX"))
    elif kind == DUP2:
        os.dup2(fd, other, inheritable=True)
        os.set_inheritable(other, True)
    else:
        opened = syscalls.open(path, other, mode)
        os.set_inheritable(opened, True)
        if opened != fd:
            os.dup2(opened, fd, inheritable=True)
            syscalls.close(opened)
