"""A program that gevent or eventlet patches before or after it registers, or between two calls.

`python patched.py LIBRARY before|after|later` prints "held" where every call does what it does in a
program without the library.
"""

import contextlib
import faulthandler
import os
import subprocess
import sys
import time
import warnings


def patch() -> None:
    """Have the library named on the command line replace parts of the standard library."""
    if library == "gevent":
        from gevent import monkey

        monkey.patch_all()
    else:
        warnings.simplefilter("ignore", DeprecationWarning)
        import eventlet

        eventlet.monkey_patch()


def where() -> str:
    """Return the cgroup of a process started now."""
    return subprocess.run(["cat", "/proc/self/cgroup"], capture_output=True, text=True).stdout


def add(one: int, other: int) -> tuple[int, int]:
    """Return a sum, and who computed it."""
    return one + other, os.getpid()


library, order = sys.argv[1:]
faulthandler.dump_traceback_later(60, exit=True)
if order == "before":
    patch()

import agentcgroup  # noqa: E402

session = agentcgroup.register()
seen: list[str] = []
session.on_record(lambda record: seen.append(record.tool))
if order == "after":
    patch()
with agentcgroup.call("first"):
    assert "/call-" in where()
if order == "later":
    patch()
with agentcgroup.call("second"):
    assert "/call-" in where()

begin = time.monotonic()
with contextlib.suppress(agentcgroup.LimitExceeded), agentcgroup.call("slow", timeout=0.3):
    subprocess.run(["sleep", "30"])
assert time.monotonic() - begin < 20

computed, pid = agentcgroup.isolate(isolation="process")(add)(1, 2)
assert computed == 3
assert pid != os.getpid()

if (child := os.fork()) == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0

assert [record.tool for record in session.records] == ["first", "second", "slow", "add"]
assert seen == ["first", "second", "slow", "add"], seen
begin = time.monotonic()
session.close()
assert time.monotonic() - begin < 10
print("held")
