"""Register agentcgroup before the first line of a program that `agentcgroup run` started.

Python imports the first `sitecustomize` on its path at every start. This module removes its folder
from PYTHONPATH, so that Python programs that the app starts do not register (they run inside a call
already). It then imports the next `sitecustomize`, and registers.
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


_step_aside()
try:
    _next_sitecustomize()
finally:  # `site` prints an error of the other `sitecustomize`, and the program goes on
    _register()
