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

    def others(entries: list[str]) -> list[str]:
        return [entry for entry in entries if os.path.abspath(entry or os.curdir) != here]

    sys.path[:] = others(sys.path)
    rest = others(os.environ.get("PYTHONPATH", "").split(os.pathsep))
    if any(rest):
        os.environ["PYTHONPATH"] = os.pathsep.join(rest)
    else:
        os.environ.pop("PYTHONPATH", None)


def _next_sitecustomize() -> None:
    """Import the one this folder was put before, as Python would have."""
    ours = sys.modules.pop("sitecustomize", None)
    try:
        importlib.import_module("sitecustomize")
    except ModuleNotFoundError as error:
        if error.name != "sitecustomize":
            raise
        if ours is not None:
            sys.modules["sitecustomize"] = ours


def _register() -> None:
    import agentcgroup

    try:
        agentcgroup.register()
    except agentcgroup.AgentCgroupError as error:
        # `site` swallows an Exception and would run the program uncontained.
        raise SystemExit(f"agentcgroup: {error}") from None


_step_aside()
_next_sitecustomize()
_register()
