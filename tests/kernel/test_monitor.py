"""The monitor with every controller on: records, the return of escapes, the kernel's counters."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import agentcgroup
from agentcgroup import Session
from agentcgroup.cgroup import Cgroup
from agentcgroup.monitor import connection
from agentcgroup.place.locate import CgroupLocator
from tests.cases import escapes as escape_cases
from tests.cases.escapes import WAYS, escapes
from tests.kernel.support import MiB, record_tells_what_ran
from tests.support.monitored import patient

__all__ = ["escapes", "patient"]

Register = Callable[..., Session]

#: Escapes of each way; natively 600, in an emulated machine one move takes 15 ms.
_ROUNDS = int(os.environ.get("AGENTCGROUP_ROUNDS", "20"))


@pytest.fixture(params=["procs", "libbpf"])
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def _watched(session: Session) -> Session:
    session._services.monitor.start()
    assert session._services.monitor.wait(300), session._services.monitor.refused
    return session


@pytest.mark.timeout(600)
def test_a_record_has_what_ran_and_how_it_ended(registered: Register, backend: str) -> None:
    session = _watched(registered(monitor={"backend": backend}))
    assert session._services.monitor.source == backend
    record_tells_what_ran(session)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("asked", ["auto", "procs", "libbpf"])
def test_in_mode_enforce_the_first_call_is_watched(
    registered: Register, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "READY_WAIT", 300)  # an emulated machine loads slowly
    session = registered(monitor={"backend": asked})
    with agentcgroup.call("first"):
        subprocess.run(["true"], check=True)
    record = session.records[-1]
    assert record.monitor == ("libbpf" if asked == "auto" else asked)
    assert (record.processes_started, record.escapes) == (1, 0)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("way", WAYS)
def test_a_process_born_outside_is_moved_in(
    registered: Register, escapes: ctypes.PyDLL, backend: str, way: str
) -> None:
    session = _watched(registered(monitor={"backend": backend}))
    escape_cases.born_outside(session, escapes, way, _ROUNDS)


@pytest.mark.timeout(900)
def test_a_process_that_leaves_is_moved_back(registered: Register, backend: str) -> None:
    escape_cases.left(_watched(registered(monitor={"backend": backend})), _ROUNDS)


@pytest.mark.timeout(600)
def test_a_process_that_leaves_ends_the_call_with_escape_kill(
    registered: Register, backend: str
) -> None:
    session = _watched(registered(monitor={"backend": backend, "escape": "kill"}))
    record = escape_cases.left_and_the_call_ends(session)
    assert (record.outcome, record.reason, record.escapes) == ("killed", "escape", 1)


_WORK = """\
import socket, sys
kept = bytearray(64 << 20)
for number in range(200):
    open(sys.argv[1]).close()
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
there, _ = server.accept()
sent = 0
while sent < 1 << 20:
    client.sendall(bytes(1 << 14))
    sent += 1 << 14
    while sent and len(there.recv(1 << 14, socket.MSG_WAITALL)) < 1 << 14:
        pass
"""


@pytest.mark.timeout(600)
def test_the_kernels_counters_are_in_the_record(registered: Register, tmp_path: Path) -> None:
    """Compared with a call that does none of it; the tests of bpf check each counter."""
    session = _watched(registered(monitor={"backend": "libbpf", "detail": "full"}))
    file = tmp_path / "file"
    file.touch()
    idle = "import socket, sys"
    for script in (idle, idle, _WORK):  # the first one fills the page cache
        with agentcgroup.call("tool"):
            subprocess.run([sys.executable, "-I", "-c", script, file], check=True)
    _, nothing, work = session.records
    for record in (nothing, work):
        assert record.memory_charged_bytes is not None
        assert record.files_opened is not None
        assert record.net_rx_bytes is not None
        assert record.net_tx_bytes is not None
        assert record.run_delay_s is not None
        assert record.reclaim_s is not None
    assert work.memory_charged_bytes - nothing.memory_charged_bytes >= 64 * MiB
    assert 200 <= work.files_opened - nothing.files_opened < 250  # and what the sockets need
    assert nothing.net_tx_bytes == 0
    assert MiB <= work.net_tx_bytes < 1.2 * MiB
    assert MiB <= work.net_rx_bytes < 1.2 * MiB


@pytest.mark.timeout(600)
def test_time_above_memory_high_is_in_the_record(registered: Register) -> None:
    limits = {"call": {"memory_high": "32M", "memory_max": "256M", "timeout": "5m"}}
    session = _watched(registered(monitor={"backend": "libbpf"}, limits=limits))
    script = "kept = bytearray(36 << 20)"  # the throttle grows with the square of the excess
    with agentcgroup.call("tool"), contextlib.suppress(subprocess.CalledProcessError):
        subprocess.run([sys.executable, "-I", "-c", script], check=True)
    record = session.records[-1]
    assert record.memory_high_s is not None
    assert 0 < record.memory_high_s < record.duration_s
    assert record.reclaim_s is not None
    assert record.reclaim_s > 0


@contextlib.contextmanager
def _out_of_the_root() -> Iterator[None]:
    """Be in a cgroup of our own meanwhile: processes in the root cgroup are charged nothing."""
    own = CgroupLocator().of(os.getpid())
    with contextlib.closing(Cgroup.open(own or "")) as before:
        leaf = before.child("test-of-charges")
        leaf.join(os.getpid())
        try:
            yield
        finally:
            before.join(os.getpid())
            leaf.remove()
            leaf.close()


def _take(size: int) -> None:
    for _ in range(2):
        with mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:
            for at in range(0, size, mmap.PAGESIZE):
                block[at] = 1


@pytest.mark.timeout(600)
def test_memory_charged_to_the_threads_of_an_inline_tool(registered: Register) -> None:
    """Freed or not; only of threads that work for this call and for no other meanwhile."""

    def by_another(size: int) -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(_take, size).result()

    async def awaited() -> None:
        async with agentcgroup.call("awaited"):
            _take(16 * MiB)

    with _out_of_the_root():
        session = _watched(registered(monitor={"backend": "libbpf", "detail": "full"}))
        for body in (_take, by_another):
            for size in (1, 16 * MiB):
                agentcgroup.isolate("tool")(body)(size)
        asyncio.run(awaited())
        *charged, shared = [record.thread_memory_charged_bytes for record in session.records]
        agentcgroup.unregister()  # the helper is in the leaf too
    idle, took, idle_pool, pool_took = [count for count in charged if count is not None]
    assert 32 * MiB <= took - idle < 34 * MiB
    assert 32 * MiB <= pool_took - idle_pool < 34 * MiB
    assert shared is None
