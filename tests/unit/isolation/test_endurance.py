"""A hundred threads and an event loop make calls at once, while the app logs and prints.

A threaded process that forks itself hangs in this: no thread of the child releases a lock that
another thread held at the fork. AGENTCGROUP_ENDURANCE sets the number of calls; 20000 passed by
hand.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import os
import threading
from collections.abc import Iterator

import pytest

import agentcgroup
from agentcgroup import Session
from agentcgroup.api import begin
from tests.support.processes import until

CALLS = int(os.environ.get("AGENTCGROUP_ENDURANCE", "2000"))
THREADS = 100
TASKS = 20

logger = logging.getLogger("endurance")


@pytest.fixture
def session() -> Iterator[Session]:
    rules = [{"tool": "*", "isolation": "process"}]
    yield begin({"rules": rules, "records_max": CALLS + 10, "workers": {"max": 8}})
    agentcgroup.unregister()


@agentcgroup.isolate
def add(a: int, b: int) -> int:
    logger.info("adding %d", a)
    if a % 10 == 0:
        print("adding", a)
    return a + b


@agentcgroup.isolate
async def aadd(a: int, b: int) -> int:
    await asyncio.sleep(0)
    logger.info("adding %d", a)
    return a + b


@pytest.mark.timeout(600 + CALLS // 10)
def test_no_call_hangs_or_is_lost(
    session: Session, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(
        logging.CRITICAL, "endurance"
    )  # both processes format the records and drop them
    numbers = itertools.count()
    wrong: list[object] = []
    over = threading.Event()

    def calling() -> None:
        while (number := next(numbers)) < CALLS:
            try:
                if add(number, 1) != number + 1:
                    wrong.append(number)
            except BaseException as error:
                wrong.append(error)

    async def acalling() -> None:
        while (number := next(numbers)) < CALLS:
            try:
                if await aadd(number, 1) != number + 1:
                    wrong.append(number)
            except BaseException as error:
                wrong.append(error)

    async def looping() -> None:
        await asyncio.gather(*(acalling() for _ in range(TASKS)))

    def chatting() -> None:
        while not over.wait(0.001):
            logger.critical("the app goes on")
            print("the app goes on")

    chatter = threading.Thread(target=chatting)
    threads = [threading.Thread(target=calling) for _ in range(THREADS)]
    threads.append(threading.Thread(target=lambda: asyncio.run(looping())))
    chatter.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    chatter.join()
    assert wrong == []
    outcomes = [record.outcome for record in session.records]
    assert outcomes == ["ok"] * CALLS
    assert capsys.readouterr().out.count("adding") >= CALLS // 20


def test_file_descriptors_are_closed_after_bursts(session: Session) -> None:
    def descriptors() -> int:
        _ = session.records
        return len(os.listdir("/proc/self/fd"))

    def burst() -> None:
        threads = [threading.Thread(target=add, args=(1, 2)) for _ in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    for _ in range(2):
        burst()
    before = descriptors()
    for _ in range(5):
        burst()
    gc.collect()
    assert until(lambda: descriptors() <= before + 10)  # one or two workers more may be ready
