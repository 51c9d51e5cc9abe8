"""Many calls at the same time."""

from __future__ import annotations

import os
import subprocess
import threading

import agentcgroup


def cgroups_at_once(calls: int) -> set[str]:
    """Make so many calls, each with a process; return the cgroups that were there together."""
    together = threading.Barrier(calls + 1)
    seen: list[str] = []

    def one() -> None:
        with (
            agentcgroup.call("cat") as call,
            subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child,
        ):
            assert call.contained is not None
            assert call.contained.group.cgroup is not None
            seen.append(call.contained.group.cgroup.path)
            together.wait()  # all have begun
            together.wait()  # it was looked
            assert child.stdin is not None
            child.stdin.close()

    threads = [threading.Thread(target=one) for _ in range(calls)]
    for thread in threads:
        thread.start()
    together.wait()
    there = {path for path in seen if os.path.exists(path)}
    together.wait()
    for thread in threads:
        thread.join()
    return there
