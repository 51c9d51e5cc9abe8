"""The process that holds the monitor; told what to do line by line, it answers each line."""

from __future__ import annotations

import contextlib
import json
import select
import sys
import time
from typing import Any, get_args

from agentcgroup.bpf import Monitor, loader
from agentcgroup.bpf.programs import Detail

#: As often as its reader looks when nothing urgent wakes it.
_LOOK_S = 0.2


def main() -> None:
    """Serve until the end of the input."""
    monitor: Monitor | None = None
    slot = 0
    # Loaded once: to load cools the caches, and lays the programs elsewhere each time.
    loaded = {detail: loader.load(detail) for detail in get_args(Detail)}
    while True:
        if monitor is not None and not select.select([sys.stdin, monitor.fd], [], [], _LOOK_S)[0]:
            monitor.poll()
            continue
        if monitor is not None:
            monitor.poll()
            if not select.select([sys.stdin], [], [], 0)[0]:
                continue
        line = sys.stdin.readline()
        if not line:
            return
        command, *arguments = json.loads(line)
        answer: Any = None
        if monitor is not None and command in ("off", "open"):
            monitor.remove(slot)
            monitor.close()
            monitor = None
        if command == "open":
            monitor = Monitor(loaded[arguments[0]], stop=True)
            slot = monitor.add(arguments[1])
        elif command == "ends" and monitor is not None:
            answer = _ends(monitor, arguments[0])
        print(json.dumps(answer), flush=True)


def _ends(monitor: Monitor, times: int) -> float:
    """Return what the begin and the end of a call cost together, in seconds."""
    began = time.perf_counter()
    for cgroup_id in range(1 << 40, (1 << 40) + times):
        monitor.remove(monitor.add(cgroup_id))
    return (time.perf_counter() - began) / times


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
