"""The BPF programs on this machine's own kernel, in the default detail and in the full one."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentcgroup.bpf import AttachedPrograms, BpfUnavailable, libbpf, loader
from agentcgroup.bpf.programs import EVERYWHERE, PROGRAMS, Detail
from agentcgroup.cgroup import Cgroup
from tests.cases.bpf import CASES, STOPPING, Case, done, inode, number, packets_case, python


@pytest.fixture(params=["default", "full"])
def attached(request: pytest.FixtureRequest) -> Iterator[AttachedPrograms]:
    detail: Detail = request.param
    with AttachedPrograms.open(detail=detail) as opened:
        yield opened


@pytest.fixture
def without_libbpf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libbpf, "libbpf", lambda: None)


@pytest.mark.parametrize("case", CASES + STOPPING, ids=lambda case: case.__name__)
def test_on_this_kernel(case: Case, attached: AttachedPrograms, box: Cgroup) -> None:
    case(attached, box)


@pytest.mark.usefixtures("without_libbpf")
@pytest.mark.parametrize("case", CASES + STOPPING, ids=lambda case: case.__name__)
def test_without_libbpf(case: Case, box: Cgroup) -> None:
    with AttachedPrograms.open() as attached:
        case(attached, box)


@pytest.mark.usefixtures("without_libbpf")
def test_without_libbpf_only_the_programs_of_every_kernel_run() -> None:
    """And each other one has libbpf as its reason."""
    with AttachedPrograms.open(detail="full") as attached:
        running = {name for name, off in attached.programs.items() if off is None}
        packets = {"on_ingress", "on_egress"}  # watch_network() was not called
        assert running == EVERYWHERE - packets
        for name in PROGRAMS.keys() - EVERYWHERE:
            assert "libbpf" in str(attached.programs[name])


@pytest.mark.usefixtures("without_libbpf")
def test_without_libbpf_and_skeleton_the_error_names_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(loader, "_FOLDER", str(tmp_path))
    with pytest.raises(BpfUnavailable, match=r"libbpf\.so\.1 is not installed") as caught:
        AttachedPrograms.open()
    assert "libbpf1" in str(caught.value.fix)


def test_nothing_is_stopped_unless_asked_for(box: Cgroup) -> None:
    with AttachedPrograms.open(stop=False) as attached:
        slot = attached.add(inode(box))
        attached.add_thread(slot, threading.get_native_id())
        subprocess.run(["/bin/true"], check=True)
        (escape,) = [event for event in attached.poll() if event.kind == "escape"]
        assert not escape.stopped
        assert not attached.stops
        found = attached.read(slot)
        assert found is not None
        assert (found.escapes, found.processes_started, found.exits) == (1, 1, 1)


def test_packets_count_for_the_call_that_owns_the_socket(box: Cgroup) -> None:
    with AttachedPrograms.open(detail="full") as attached:
        attached.watch_network(box.path)
        packets_case(attached, box)


def test_a_cgroup_that_is_not_there_cannot_have_its_packets_watched(tmp_path: Path) -> None:
    with AttachedPrograms.open(detail="full") as attached, pytest.raises(FileNotFoundError):
        attached.watch_network(str(tmp_path / "none"))


def test_events_beyond_the_buffer_are_counted_as_lost(box: Cgroup) -> None:
    """Events are lost, the other counters are complete."""
    code = """
import os
for _ in range(9000):
    if os.fork() == 0: os._exit(0)
    os.wait()
"""
    with AttachedPrograms.open() as attached:
        slot = attached.add(inode(box))
        assert done(python(box, code)) == 0
        found = attached.read(slot)
        assert found is not None
        assert (found.processes_started, found.exits) == (9001, 9001)
        lost = number(found.events_lost)
        read = len(attached.poll())
        assert read > 0
        assert lost > 0
        assert read + lost == 2 * 9001 + 1  # and one execution
        assert done(python(box, "")) == 0
        assert [event.kind for event in attached.poll()] == ["fork", "exec", "exit"]
