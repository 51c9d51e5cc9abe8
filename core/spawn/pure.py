"""Children started without the C extension: every spawn is a fork, and the child joins by itself.

Costs a copy of this process's page tables and one grace period of the kernel per child; it is what
a machine without a compiler gets.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable
from typing import Any, NoReturn

from agentcgroup.spawn.arguments import CLOSE, CLOSEFROM, DUP2, Action, Attribute, SpawnRequest
from agentcgroup.spawn.backend import ForkExec, Mode
from agentcgroup.spawn.forks import guarded
from agentcgroup.spawn.placement import adopt, open_procs

__all__ = ["Pure"]

#: What a shell answers for "found, but could not be run", and for "not found".
_REFUSED, _NOT_FOUND = 126, 127

#: Where fork_exec has its preexec_fn, by the number of its arguments (3.10; 3.14; 3.11 to 3.13).
_PREEXEC = {21: 20, 22: 21, 23: 21}

#: Taken before any patch point stands here.
_fork = os.fork


class _Pending(threading.local):
    """What the next fork of this thread is for."""

    procs: int | None = None
    refused = False


class Pure:
    """The `Backend` of Python alone."""

    def __init__(self) -> None:
        self._pending = _Pending()

    def mode(self) -> tuple[Mode, str | None]:
        """Return "fork"."""
        return "fork", "the C extension is missing, or switched off by AGENTCGROUP_PURE"

    def fork_exec(self, fd: int, args: tuple[Any, ...], original: ForkExec) -> int:
        """Fork by fork_exec itself; the child joins in the hook that runs before its steps."""
        index = _PREEXEC.get(len(args))
        if index is None:
            pid = original(*args)
            adopt(fd, pid)
            return pid
        # Only with a preexec_fn does fork_exec fork, and run the hooks that place the child.
        preexec = args[index] or _nothing
        return self._armed(fd, lambda: original(*args[:index], preexec, *args[index + 1 :]))

    def posix_spawn(self, fd: int, request: SpawnRequest) -> int:
        """Do in a forked child what POSIX says, in Python."""
        read_end, write_end = os.pipe()
        try:
            pid = self._armed(fd, _fork)
            if pid == 0:
                _become(request, write_end)
        finally:
            os.close(write_end)
        with os.fdopen(read_end, "rb") as failure:
            error = failure.read()
        if error:
            os.waitpid(pid, 0)
            raise OSError(int(error), os.strerror(int(error)), request.path)
        return pid

    def hold_signals(self) -> int:
        """Block SIGINT and SIGQUIT too: Python ignores signals in its main thread only."""
        held = signal.pthread_sigmask(
            signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGINT, signal.SIGQUIT}
        )
        return sum(1 << (number - 1) for number in held)

    def release_signals(self, held: int) -> None:
        """Set this thread's signal mask to what it was."""
        signal.pthread_sigmask(signal.SIG_SETMASK, _signals_of(held))

    def shell(self, fd: int | None, command: bytes, held: int) -> int:
        """Fork and become /bin/sh."""
        pid = self._armed(fd, _fork)
        if pid == 0:
            self.release_signals(held)
            _execute([b"/bin/sh"], [b"sh", b"-c", command], None)
            os._exit(_NOT_FOUND)
        return pid

    def wait(self, pid: int) -> int:
        """Wait for the shell; a Python signal handler may run and raise meanwhile."""
        try:
            return os.waitpid(pid, 0)[1]
        except ChildProcessError:
            return -1

    def arm(self, fd: int) -> None:
        """Open the cgroup for the next child of this thread to join."""
        self.disarm()
        self._pending.procs = open_procs(fd)

    def refuse(self) -> None:
        """Let the next child of this thread exit at once."""
        self.disarm()
        self._pending.refused = True

    def disarm(self) -> None:
        """Forget what the next child is for."""
        procs, self._pending.procs = self._pending.procs, None
        self._pending.refused = False
        if procs is not None:
            os.close(procs)

    def after_fork_in_child(self) -> None:
        """Join, or exit with a line on stderr: outside it must not run."""
        if self._pending.refused:
            _refuse("its tool call takes no more processes")
        if self._pending.procs is not None:
            try:
                os.write(self._pending.procs, b"0")
            except OSError as error:
                _refuse(f"it could not join its tool call's cgroup ({error})")
            self.disarm()

    def _armed(self, fd: int | None, fork: Callable[[], int]) -> int:
        with guarded():
            if fd is not None:
                self.arm(fd)
            try:
                return fork()
            finally:
                self.disarm()


def _nothing() -> None:
    pass


def _refuse(why: str) -> NoReturn:
    os.write(2, f"agentcgroup: process refused: {why}\n".encode())
    os._exit(_REFUSED)


def _signals_of(mask: int) -> list[int]:
    return [number for number in range(1, signal.NSIG) if mask >> (number - 1) & 1]


def _become(request: SpawnRequest, failure: int) -> NoReturn:
    """Turn this forked child into the program of `request`, or report why not and exit."""
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
        # Whatever this was, nothing of the parent's code may run on in its copy.
        number = error.errno if error is not None else None
        os.write(failure, b"%d" % (number or errno.EINVAL))
        os._exit(_NOT_FOUND)


def _execute(
    executables: list[bytes], argv: list[bytes], env: dict[bytes, bytes] | None
) -> OSError | None:
    """Become the first that runs; return why none did: what is not there counts last."""
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
    """Do what _native.c does under the same name, in the same order."""
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
        # POSIX: closing what is not open is no error here.
        os.closerange(fd, fd + 1)
    elif kind == CLOSEFROM:
        os.closerange(fd, os.sysconf("SC_OPEN_MAX"))
    elif kind == DUP2:
        os.dup2(fd, other, inheritable=True)
        os.set_inheritable(other, True)
    else:
        opened = os.open(path, other, mode)
        os.set_inheritable(opened, True)
        if opened != fd:
            os.dup2(opened, fd, inheritable=True)
            os.close(opened)
