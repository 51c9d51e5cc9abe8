"""The sentence after a timeout names what held the call: a background process, memory, work."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

import agentcgroup
from agentcgroup.calls import feedback
from agentcgroup.records.record import CallRecord

_DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(60)
    os._exit(0)
os.wait()
"""


@pytest.fixture(autouse=True)
def session() -> Iterator[agentcgroup.Session]:
    rules = [{"tool": "isolated", "isolation": "process"}]
    with agentcgroup.register(
        config={"limits": {"call": {"timeout": "3s"}}, "rules": rules}
    ) as session:
        yield session
    agentcgroup.unregister()


def _shell(command: str) -> Callable[[], object]:
    return lambda: subprocess.run(command, shell=True, capture_output=True)


def _python(code: str) -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, "-c", code], capture_output=True)


def _late(tool: str, body: Callable[[], object]) -> CallRecord:
    agentcgroup.isolate(tool, timeout="2m")(int)()  # starts what makes workers
    with pytest.raises(agentcgroup.LimitExceeded) as caught:
        agentcgroup.isolate(tool)(body)()
    assert caught.value.record is not None
    assert caught.value.record.outcome == caught.value.record.reason == "timeout"
    assert str(caught.value) == feedback.sentence(caught.value.record)
    return caught.value.record


@pytest.mark.parametrize("tool", ["inline", "isolated"])
@pytest.mark.parametrize(
    ("body", "names"),
    [
        (_shell("sleep 60 & echo started"), ("sleep",)),
        (_shell("(sleep 60 | cat) & echo started"), ("cat", "sh", "sleep")),
        (_shell("setsid nohup sleep 60 & exit 0"), ("sleep",)),
        (_python(_DAEMON), ("python",)),
    ],
    ids=["&", "a pipeline", "nohup", "a daemon"],
)
def test_a_background_process_that_holds_the_call_is_named(
    tool: str, body: Callable[[], object], names: tuple[str, ...]
) -> None:
    """It keeps the output open, and the tool waits for the end of the output."""
    record = _late(tool, body)
    assert record.background is not None
    assert {name[:6] for name in record.background} <= {name[:6] for name in names}
    told = feedback.sentence(record) or ""
    assert "only processes in the background were left" in told
    assert "redirect it" in told
    assert "faster" not in told
    assert record.to_dict()["background"] == list(record.background)


@pytest.mark.parametrize("tool", ["inline", "isolated"])
@pytest.mark.parametrize(
    "body",
    [
        _shell("sleep 60"),
        _shell("sleep 60; true"),
        _shell("sleep 60 & sleep 60; true"),
        _python("import subprocess; subprocess.run(['sleep', '60'])"),
    ],
    ids=["a child", "a grandchild", "beside one in the background", "Python"],
)
def test_work_in_the_foreground_is_told_to_be_smaller(
    tool: str, body: Callable[[], object]
) -> None:
    record = _late(tool, body)
    assert record.background is None
    assert "do a smaller part of the work per call" in (feedback.sentence(record) or "")


def test_a_worker_that_computes_is_told_so_beside_a_background_process() -> None:
    def body() -> None:
        subprocess.Popen("sleep 60 & exit 0", shell=True).wait()
        while os.getpid():
            pass

    record = _late("isolated", body)
    assert record.background is None


def test_memory_above_memory_high_is_told_as_what_slowed_the_call() -> None:
    """tests/kernel has it with a kernel that counts."""
    record = replace(
        _late("inline", _shell("sleep 60")),
        memory_high_events=7,
        limits={"timeout": 3.0, "memory_high": 16 << 20},
    )
    told = feedback.sentence(record) or ""
    assert "Its memory was above 16" in told
    assert "(memory_high)" in told
    assert "work on less data at once" in told
    assert "faster" not in told
    for other in (
        replace(record, memory_high_events=0),
        replace(record, memory_high_events=None),
        replace(record, limits={"timeout": 3.0}),
    ):
        assert "memory" not in (feedback.sentence(other) or "")
