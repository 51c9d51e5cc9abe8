"""Async calls in a program that watches its event loop; test_event_loop.py runs it.

    python event_loop.py LOOP WHEN ISOLATION PLACE

LOOP is asyncio or uvloop. WHEN says whether BlockBuster replaces the functions that it watches
`before` or `after` agentcgroup is imported. ISOLATION is inline or process. PLACE is `cgroup`, or
`none` for a machine without cgroups. Prints what each call gave, and the records, as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from blockbuster import BlockBuster

LOOP, WHEN, ISOLATION, PLACE = sys.argv[1:]

buster = BlockBuster()
if WHEN == "before":
    buster.activate()

import agentcgroup  # noqa: E402

#: More than a message of the channel carries, so that it goes out of band.
LARGE = 3_000_000


async def echo(text: str) -> str:
    process = await asyncio.create_subprocess_exec("echo", text, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    return out.decode().strip()


async def shell(text: str) -> str:
    process = await asyncio.create_subprocess_shell(
        f"cat; echo {text} >&2; exit 3",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, error = await process.communicate(b"in ")
    return f"{(out + error).decode().strip()} {process.returncode}"


async def fails(text: str) -> str:
    await echo(text)
    raise KeyError(text)


async def missing(text: str) -> str:
    await asyncio.create_subprocess_exec("/no/such/program")
    return "started"


async def leaves(text: str) -> str:
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", f"sleep 5 >/dev/null & echo {text}", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().strip()


async def hangs(text: str) -> str:
    process = await asyncio.create_subprocess_exec("sleep", "100")
    await process.wait()
    return text


async def waits(text: str) -> str:
    await asyncio.sleep(100)
    return text


async def large(text: str) -> str:
    return text * LARGE


async def prints(text: str) -> str:
    print("." * LARGE)
    logging.getLogger("tool").warning(text)
    return text


async def outer(text: str) -> str:
    """Start a process, then another call that starts one."""
    first = await echo(text)
    async with agentcgroup.call("inner"):
        return first + await echo(text)


TOOLS = (echo, shell, fails, missing, leaves, hangs, waits, large, prints, outer)


def called(body: Callable[[str], Awaitable[str]], **limits: Any) -> Callable[[str], Awaitable[str]]:
    return agentcgroup.isolate(body.__name__, isolation=ISOLATION, **limits)(body)


async def result(awaitable: Awaitable[str]) -> str:
    try:
        found = await awaitable
    except asyncio.CancelledError:
        return "CancelledError"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return found if len(found) < 1000 else f"{len(found)} characters"


async def main() -> dict[str, str]:
    given = {}
    for body in TOOLS:
        limits = {"timeout": "1s"} if body in (hangs, waits) else {}
        given[body.__name__] = await result(called(body, **limits)("x"))
    burst = await asyncio.gather(*(result(called(echo)(str(number))) for number in range(8)))
    given["burst"] = " ".join(burst)
    for body in (hangs, waits, large):
        for pause in (0.0, 0.3):
            task = asyncio.ensure_future(result(called(body)("x")))
            await asyncio.sleep(pause)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                given[f"{body.__name__} cancelled after {pause}"] = await task
    return given


if __name__ == "__main__":
    # Not a folder of cgroupfs: no cgroup can be made there.
    config = {} if PLACE == "cgroup" else {"cgroup_root": "/proc"}
    session = agentcgroup.register("langchain", config=config)
    if WHEN == "after":
        buster.activate()
    if LOOP == "uvloop":
        import uvloop

        loop = uvloop.new_event_loop()
    else:
        loop = asyncio.new_event_loop()
    with contextlib.redirect_stdout(sys.stderr):
        given = loop.run_until_complete(main())
    loop.close()
    buster.deactivate()
    records = [[record.tool, record.outcome, record.reason] for record in session.records]
    agentcgroup.unregister()
    print(json.dumps({"given": given, "records": records}))
