"""Run modules of CPython's own test suite; every process that they start is placed in a cgroup.

    python cpython_suites.py CGROUP|- MODULE...

prints on its last line, as JSON, the tests that failed and the number of processes placed ("-" as
CGROUP places none).
"""

from __future__ import annotations

import json
import os
import sys
import unittest


class SpawnTarget:
    """A call with one cgroup, which counts its spawns."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.placed = 0

    over = False

    def background(self) -> SpawnTarget:
        return self

    def note_helpers(self) -> None:
        pass

    def begin_spawn(self, failed: OSError | None = None) -> int | None:
        if failed is not None:
            raise failed
        return self.fd

    def end_spawn(self, pid: int | None) -> None:
        self.placed += 1

    def note_child(self, pid: int) -> None:
        pass


def main(path: str, *modules: str) -> None:
    target = None
    if path != "-":
        from agentcgroup import propagation, scope, spawn

        target = SpawnTarget(path)
        propagation.install()
        spawn.install()
        scope.current.set(target)
    # After the patching, because a program imports its modules after register().
    suite = unittest.defaultTestLoader.loadTestsFromNames([f"test.{name}" for name in modules])
    result = unittest.TextTestRunner(stream=sys.stderr, verbosity=2).run(suite)
    failed = [
        *result.failures,
        *result.errors,
        *((test, "") for test in result.unexpectedSuccesses),
    ]
    report = {
        "run": result.testsRun,
        "failed": sorted({test.id() for test, _ in failed}),
        "placed": target.placed if target is not None else 0,
    }
    print("\n" + json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
