"""A place is tried for the controllers of our limits, and for those that the user names."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

#: Finds a place for a controller that no kernel has; prints the controllers of each problem.
_FIND = """
import json
from agentcgroup.place.place import find, teardown
place = find(controllers=["nosuch"])
print(json.dumps([place.base is not None, [sorted(one.controllers) for one in place.problems]]))
teardown(place)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has a place on every machine; CI is root")
def test_a_controller_that_is_not_there_is_a_problem_of_its_own() -> None:
    done = subprocess.run([sys.executable, "-c", _FIND], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[true, ")
    assert '["nosuch"]' in done.stdout
