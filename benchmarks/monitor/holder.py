"""The process that holds the programs: it reads a command a line, and answers each with a line."""

from __future__ import annotations

import contextlib
import json
import select
import sys
import time
from typing import Any, get_args

from agentcgroup.bpf import AttachedPrograms, loader
from agentcgroup.bpf.programs import Detail

#: Seconds after which it reads events when no urgent one wakes it.
_LOOK_S = 0.2


def main() -> None:
    """Serve until the end of the input."""
    attached: AttachedPrograms | None = None
    slot = 0
    # Loaded once: loading evicts the caches, and puts the programs at other addresses each time.
    loaded = {detail: loader.load(detail) for detail in get_args(Detail)}
    while True:
        if attached is not None and not select.select([sys.stdin, attached.fd], [], [], _LOOK_S)[0]:
            attached.poll()
            continue
        if attached is not None:
            attached.poll()
            if not select.select([sys.stdin], [], [], 0)[0]:
                continue
        line = sys.stdin.readline()
        if not line:
            return
        command, *arguments = json.loads(line)
        answer: Any = None
        if attached is not None and command in ("off", "open"):
            attached.remove(slot)
            attached.close()
            attached = None
        if command == "open":
            attached = AttachedPrograms(loaded[arguments[0]], stop=True)
            slot = attached.add(arguments[1])
        elif command == "ends" and attached is not None:
            answer = _ends(attached, arguments[0])
        print(json.dumps(answer), flush=True)


def _ends(attached: AttachedPrograms, times: int) -> float:
    """Return the seconds that the begin and the end of a call take together."""
    began = time.perf_counter()
    for cgroup_id in range(1 << 40, (1 << 40) + times):
        attached.remove(attached.add(cgroup_id))
    return (time.perf_counter() - began) / times


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
