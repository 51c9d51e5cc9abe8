"""Registers agentcgroup before the program's first line; started by `agentcgroup run`.

Python imports the first `sitecustomize` it finds, at every start. This one takes its folder out of
PYTHONPATH, so that Python programs the app starts are left alone (they are inside a call already),
gives the next `sitecustomize` its turn, and registers.
"""

from __future__ import annotations

import importlib
import os
import sys


def _step_aside() -> None:
    """Leave sys.path and PYTHONPATH as they were before `agentcgroup run`."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or os.curdir) != here]
    first, _, rest = os.environ.get("PYTHONPATH", "").partition(os.pathsep)
    if os.path.abspath(first) == here:
        if rest:
            os.environ["PYTHONPATH"] = rest
        else:
            del os.environ["PYTHONPATH"]


def _next_sitecustomize() -> None:
    """Import the one this folder was put before, as Python would have."""
    ours = sys.modules.pop("sitecustomize", None)
    try:
        importlib.import_module("sitecustomize")
    except ModuleNotFoundError as error:
        if error.name != "sitecustomize":
            raise
    finally:
        # The import of ours, still going on, has to find something there.
        if ours is not None:
            sys.modules.setdefault("sitecustomize", ours)


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
    """End the process: `site` would swallow an Exception and run the program uncontained.

    Not by SystemExit, of which Python makes a fatal error with a traceback this early.
    """
    print(f"agentcgroup: {why}", file=sys.stderr, flush=True)
    os._exit(2)


_step_aside()
try:
    _next_sitecustomize()
finally:  # an error in the other one is told by `site`, and the program goes on
    _register()
