"""What a call stands on must be there when it starts: its parent, and the base of all runs."""

from __future__ import annotations

import asyncio
import contextvars
import os
import subprocess
from collections.abc import AsyncGenerator, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import agentcgroup
from agentcgroup import Session
from agentcgroup.calls import lifecycle
from agentcgroup.place.place import teardown


@pytest.fixture
def session() -> Iterator[Session]:
    yield agentcgroup.register("langchain", config={})
    agentcgroup.unregister()


def _true() -> None:
    subprocess.run(["true"], check=True)


def test_a_call_of_a_task_that_outlived_its_own_is_contained(session: Session) -> None:
    """A task carries the call that it was started in; that one is over when it starts another."""

    async def later() -> None:
        await asyncio.sleep(0.2)
        with agentcgroup.call("later"):
            _true()

    async def main() -> None:
        with agentcgroup.call("first"):
            _true()
            task = asyncio.create_task(later())
        await task

    asyncio.run(main())
    _, record = session.records
    assert (record.tool, record.parent_id, record.outcome) == ("later", None, "ok")
    assert record.cgroup is not None


def test_a_generator_closed_in_another_thread_ends_its_call(session: Session) -> None:
    """As a web server closes what a dependency yields from: in whatever thread is free."""

    def steps() -> Generator[None, None, None]:
        with agentcgroup.agent("coder"), agentcgroup.call("wanders"):
            yield

    generator = steps()
    contextvars.copy_context().run(next, generator)
    with ThreadPoolExecutor() as pool:
        pool.submit(generator.close).result()
    assert [record.tool for record in session.records] == ["wanders"]


def test_an_async_generator_closed_by_another_task_ends_its_call(session: Session) -> None:
    """As the event loop closes those that are left at its end."""

    async def steps() -> AsyncGenerator[None, None]:
        async with agentcgroup.agent("coder"), agentcgroup.call("wanders"):
            yield

    async def main() -> None:
        generator = steps()
        await asyncio.create_task(generator.__anext__())
        await asyncio.create_task(generator.aclose())

    asyncio.run(main())
    assert [record.outcome for record in session.records] == ["cancelled"]


def test_another_process_that_ends_leaves_the_base(session: Session) -> None:
    """Its last run is over between our registering and our first process."""
    teardown(session._services.cgroups.place)
    with agentcgroup.call("first"):
        _true()
    (record,) = session.records
    assert record.cgroup is not None


def test_a_fork_inside_a_call_ends_by_itself_and_nothing_else(session: Session) -> None:
    """It is a copy of all that the parent has begun: the call, other calls, the run."""
    with agentcgroup.call("forks") as forking, agentcgroup.call("within"):
        sleeper = subprocess.Popen(["sleep", "60"])
        child = os.fork()
        if child == 0:
            try:
                lifecycle.finish(forking)
                session.close()
                os._exit(3)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
        assert sleeper.poll() is None
        sleeper.kill()
        sleeper.wait()
    assert [(one.tool, one.outcome) for one in session.records] == [
        ("within", "ok"),
        ("forks", "ok"),
    ]
