"""Each limit is one row, and everything else is made from it."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from agentcgroup.cgroup import Cgroup, Limits, controller_of
from agentcgroup.cgroup.limits import CONTROLLERS, LIMITS
from agentcgroup.config.limit_tables import CallLimits, Limiting, LimitTable, Rule
from agentcgroup.config.loading import load
from agentcgroup.config.policy import Resolver
from agentcgroup.config.schema import schema
from agentcgroup.config.toml import parse

ROWS = pytest.mark.parametrize("key", LIMITS)


@ROWS
def test_the_key_is_the_kernels_name_of_the_file(key: str) -> None:
    row = LIMITS[key]
    assert row.key == key
    assert row.file == f"{row.controller}.{row.file.partition('.')[2]}"
    assert controller_of(key) == row.controller


@ROWS
def test_every_table_and_the_schema_have_it(key: str) -> None:
    whole = schema()
    for table in (LimitTable, CallLimits, Limiting, Rule):
        assert key in table.model_fields
    for name in ("LimitTable", "CallLimits", "Rule"):
        assert LIMITS[key].file in whole["$defs"][name]["properties"][key]["description"]


@ROWS
def test_a_line_of_help_is_one_line(key: str) -> None:
    row = LIMITS[key]
    assert "\n" not in row.help
    assert not row.help.endswith(".")


def test_limits_are_told_apart_and_found_by_their_values() -> None:
    """They are the keys under which cgroups made ahead of need are kept."""
    one = Limits(memory_max=1 << 30, io_max={"8:0": {"rbps": 1}})
    spares = {one: 1, Limits(memory_max=1 << 30, io_max={"8:0": {"rbps": 2}}): 2}
    assert spares[Limits(memory_max=1 << 30, io_max={"8:0": {"rbps": 1}})] == 1
    assert len(spares) == 2
    assert Limits(memory_max=1) not in spares
    untyped: Any = one
    with pytest.raises(AttributeError):
        untyped.memory_max = 1
    with pytest.raises(TypeError, match="memory_mx"):
        type(untyped)(memory_mx=1)


def test_the_controllers_are_those_of_the_rows() -> None:
    assert CONTROLLERS == ("memory", "cpu", "pids", "io", "cpuset")


@pytest.mark.parametrize(
    ("key", "value", "texts"),
    [
        ("memory_max", "max", ("max",)),
        ("memory_oom_group", False, ("0",)),
        ("cpu_max", (150_000, 100_000), ("150000 100000",)),
        ("io_weight", 250, ("default 250",)),
        (
            "io_max",
            {"8:0": {"rbps": 1, "wiops": "max"}, "8:16": {"rbps": 2}},
            ("8:0 rbps=1 wiops=max", "8:16 rbps=2"),
        ),
        ("io_latency", {"8:0": 5000, "8:16": "max"}, ("8:0 target=5000", "8:16 target=max")),
        ("cpuset_cpus", "0-3,8", ("0-3,8",)),
    ],
)
def test_a_value_is_written_in_the_kernels_form(
    key: str, value: Any, texts: tuple[str, ...]
) -> None:
    assert LIMITS[key].form.data(value) == texts


@ROWS
def test_the_example_is_a_value_and_a_missing_file_is_reported(box: Cgroup, key: str) -> None:
    """A grandchild of a cgroup that enables nothing has no controller, on any machine."""
    table = parse(f"{key} = {LIMITS[key].example}", "example").data
    limits = Resolver(load({"limits": {"run": table}})).run()
    assert getattr(limits, key) is not None
    with contextlib.closing(box.child("bare")) as bare:
        assert key in bare.set(limits)
