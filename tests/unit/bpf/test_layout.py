"""layout.py and programs.py have the same numbers and names as the C sources."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import get_args

from agentcgroup.bpf import Counters, layout
from agentcgroup.bpf.programs import PROGRAMS

BPF = Path(__file__).parents[3] / "bpf"
HEADER = (BPF / "monitor.h").read_text()
SOURCE = "".join(file.read_text() for file in BPF.glob("*.bpf.h"))


def enumerators(name: str) -> list[str]:
    match = re.search(rf"enum {name} {{(.*?)}};", HEADER, re.DOTALL)
    assert match
    body = re.sub(r"/\*.*?\*/", "", match[1], flags=re.DOTALL)
    return re.findall(r"^\s*([A-Z_]+)", body, re.MULTILINE)


def constant(name: str) -> int:
    match = re.search(rf"\b{name} = ([0-9 <]+)", HEADER)
    assert match
    left, _, right = match[1].partition("<<")
    return int(left) << int(right or 0)


def test_counters_are_in_the_same_order() -> None:
    *counters, end = enumerators("counter")
    assert end == "COUNTERS"
    assert [name.lower() for name in counters] == list(layout.COUNTERS)


def test_every_counter_can_be_read() -> None:
    assert [each.name for each in fields(Counters)] == [*layout.COUNTERS, "run_queue_waits"]


def test_kinds_of_events_are_in_the_same_order() -> None:
    assert [name.lower() for name in enumerators("kind")] == list(get_args(layout.Kind))


def test_numbers_are_the_same() -> None:
    features = enumerators("feature")
    assert features
    for name in ("MAX_CALLS", "RING_BYTES", "WAITS", *features):
        assert constant(name) == getattr(layout, name), name


def test_the_table_of_programs_is_that_of_the_source() -> None:
    sections = re.findall(r'SEC\("(\w+)/(\w+)"\)\nint (\w+)\(', SOURCE)
    assert {name: (hook, target) for hook, target, name in sections} == {
        name: (each.hook, each.target) for name, each in PROGRAMS.items()
    }


def test_every_counter_is_filled_by_some_program() -> None:
    """Counters of processes are filled by the programs that are always needed."""
    always = set(layout.COUNTERS[: layout.COUNTERS.index("memory_charged_bytes")])
    filled = {name for each in PROGRAMS.values() for name in each.fills}
    assert filled | always == {each.name for each in fields(Counters)}
    assert not filled & always
