"""Register agentcgroup in the Python processes of a program that `agentcgroup run` started.

Python imports the first `sitecustomize` on its path at every start. The first Python process of the
program registers before its first line. A Python process that it starts, or that takes its place by
exec, has the same environment: it registers when it imports a framework, so that a launcher, a
reloader and its workers need nothing, and a helper that uses no framework costs nothing. A process
in a call does nothing: the limits of that call hold there.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_HERE = os.path.dirname(os.path.abspath(__file__))


def _leave_path() -> None:
    """Make sys.path what it would be without this folder."""
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or os.curdir) != _HERE]


def _next_sitecustomize() -> None:
    """Import the `sitecustomize` that Python would have imported without this folder."""
    ours = sys.modules.pop("sitecustomize", None)
    try:
        importlib.import_module("sitecustomize")
    except ModuleNotFoundError as error:
        if error.name != "sitecustomize":
            raise
    finally:
        # The import of this module, which has not ended yet, needs an entry in sys.modules.
        if ours is not None:
            sys.modules.setdefault("sitecustomize", ours)


def _inside_a_call() -> bool:
    """Return what `place.inside_a_run` returns, without an import."""
    try:
        with open("/proc/self/cgroup", "rb") as file:
            return b"/agentcgroup.run-" in file.read()
    except OSError:
        return False


def _register() -> None:
    try:
        import agentcgroup
    except ModuleNotFoundError:
        _refuse(f"it is not installed for {sys.executable}: install it there, too")
    try:
        agentcgroup.register()
    except agentcgroup.AgentCgroupError as error:
        _refuse(str(error))


def _refuse(why: str) -> None:
    """Print `why` and end the process with status 2.

    `site` would catch an Exception and run the program uncontained. A SystemExit this early would
    become a fatal error with a traceback.
    """
    print(f"agentcgroup: {why}", file=sys.stderr, flush=True)
    os._exit(2)


def _end_watch() -> None:
    """Do what `run_watch.announce` does, before this package is imported: that takes seconds."""
    import socket

    name = os.environ.pop("AGENTCGROUP_RUN_WATCH")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
        try:
            ours.sendto(b"+", f"\0{name}")
        except OSError:  # nothing watches
            return


class _AtFramework:
    """A finder that finds nothing itself: the first import of a framework makes it register."""

    def __init__(self, frameworks: Sequence[str]) -> None:
        self._frameworks = frozenset(frameworks)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in self._frameworks or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        _register()
        # Hooks that the registration has put in front of this finder want to see the module, too.
        for finder in tuple(sys.meta_path):
            find_spec = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = find_spec and find_spec(name, path, target)
            if spec is not None:
                return spec
        return None


def _keep_over_exec() -> None:
    """Have the program that takes the place of this process by exec register.

    A launcher may have put a `sitecustomize` of its own in front of this one, which imports no
    other, or may have removed PYTHONPATH.
    """
    import posix

    execv, execve = os.execv, os.execve

    def replaced_execv(path: Any, argv: Any, /) -> Any:
        changed = _armed(os.environ)
        _report_lost(path, argv)
        return execv(path, argv) if changed is None else execve(path, argv, changed)

    def replaced_execve(path: Any, argv: Any, env: Any) -> Any:
        changed = _armed(env)
        _report_lost(path, argv)
        return execve(path, argv, env if changed is None else changed)

    for original, replacement in ((execv, replaced_execv), (execve, replaced_execve)):
        for attribute in ("__name__", "__qualname__", "__module__", "__doc__"):
            setattr(replacement, attribute, getattr(original, attribute))
        for module in (os, posix):
            setattr(module, original.__name__, replacement)


def _armed(env: Any) -> dict[str, str] | None:
    """Return an environment with this folder first on PYTHONPATH; None where `env` is right."""
    if not isinstance(env, Mapping) or _inside_a_call():
        return None
    try:
        decoded = {os.fsdecode(key): os.fsdecode(value) for key, value in env.items()}
    except TypeError:  # exec itself raises the right error
        return None
    before = decoded.get("PYTHONPATH", "")
    if before.partition(os.pathsep)[0] == _HERE:
        return None
    rest = [entry for entry in before.split(os.pathsep) if entry != _HERE] if before else []
    return {**decoded, "PYTHONPATH": os.pathsep.join([_HERE, *rest])}


def _report_lost(path: Any, argv: Any) -> None:
    """Report a Python that is about to take the place of this process and cannot register."""
    try:
        words = [os.fsdecode(word) for word in argv]
        name = os.path.basename(os.fsdecode(path))
    except TypeError:
        return
    if not name.startswith("python") or not os.access(path, os.X_OK) or _inside_a_call():
        return
    if option := _option_that_hides(words[1:]):
        print(
            f"agentcgroup run: {' '.join(words)!r} runs UNCONTAINED: with -{option} Python does"
            " not register. Fix: leave the option out, or call agentcgroup.register() in the"
            " program.",
            file=sys.stderr,
            flush=True,
        )


def _option_that_hides(words: Sequence[str]) -> str:
    """Return the first of the options -I, -E and -S on a command line of Python, else ""."""
    words = list(words)
    while words and words[0].startswith("-") and words[0] not in ("-", "--"):
        word = words.pop(0)
        if word.startswith("--"):
            continue
        for at, letter in enumerate(word[1:], 1):
            if letter in "IES":
                return letter
            if letter in "cm":
                return ""
            if letter in "WX":
                if at == len(word) - 1 and words:
                    words.pop(0)
                break
    return ""


def _begin() -> None:
    if _inside_a_call():
        return
    _keep_over_exec()
    frameworks = os.environ.get("AGENTCGROUP_RUN_FRAMEWORKS", "").split(",")
    # An instrumentation that starts by its own `sitecustomize` may import frameworks there.
    if "AGENTCGROUP_RUN_WATCH" in os.environ:
        _end_watch()
        _register()
    elif not sys.modules.keys().isdisjoint(frameworks):
        _register()
    else:
        sys.meta_path.insert(0, _AtFramework(frameworks))


_leave_path()
try:
    _next_sitecustomize()
finally:  # `site` prints an error of the other `sitecustomize`, and the program goes on
    _begin()
