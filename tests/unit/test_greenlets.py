"""Greenlets that a call spawns belong to the call, in programs of gevent and of eventlet."""

from __future__ import annotations

import subprocess
import sys

import pytest

_PATCH = {
    "gevent": "from gevent import monkey; monkey.patch_all(); import gevent, gevent.pool",
    "eventlet": "import eventlet; eventlet.monkey_patch()",
}

_WAYS = {
    "gevent": {
        "spawn": "gevent.spawn(where).get()",
        "spawn_later": "gevent.spawn_later(0.01, where).get()",
        "Pool.map": "gevent.pool.Pool(1).map(where, [1])[0]",
        "Pool.imap_unordered": "list(gevent.pool.Pool(2).imap_unordered(where, [1]))[0]",
        "Group.spawn": "gevent.pool.Group().spawn(where).get()",
    },
    "eventlet": {
        "spawn": "eventlet.spawn(where).wait()",
        "spawn_n": "(eventlet.spawn_n(lambda: out.append(where())), eventlet.sleep(1), out[0])[2]",
        "GreenPool.imap": "list(eventlet.GreenPool(1).imap(where, [1]))[0]",
        "GreenPool.spawn": "eventlet.GreenPool(2).spawn(where).wait()",
    },
}

_PROGRAM = """
import os, subprocess, sys, threading, concurrent.futures
{before}
import agentcgroup
agentcgroup.register()
{after}
out = []
def where(_=None):
    return subprocess.run(["cat", "/proc/self/cgroup"], capture_output=True, text=True).stdout
def by_thread():
    thread = threading.Thread(target=lambda: out.append(where()))
    thread.start()
    thread.join()
    return out.pop()
ways = {{
    {ways},
    "Thread": by_thread,
    "ThreadPoolExecutor": lambda: concurrent.futures.ThreadPoolExecutor(1).submit(where).result(),
}}
for name, way in ways.items():
    out.clear()
    assert "/call-" not in way(), f"{{name}} outside"
    out.clear()
    with agentcgroup.call("tool") as call:
        found = way()
        cgroup = os.path.basename(call.contained.group.cgroup.path)
    assert f"/{{cgroup}}\\n" in found, (name, found)
print("contained")
"""


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("library", _PATCH)
def test_greenlets_of_a_call_are_contained(library: str, order: str) -> None:
    """Also those of pools, and threads that are greenlets; outside of a call none is."""
    ways = ",\n    ".join(f"{name!r}: lambda: {code}" for name, code in _WAYS[library].items())
    patch = {"before": "", "after": ""} | {order: _PATCH[library]}
    code = _PROGRAM.format(ways=ways, **patch)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.stdout == "contained\n", done.stderr
