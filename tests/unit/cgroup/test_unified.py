"""Any further file of cgroup v2 can be written; what would undo a limit of ours cannot."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from agentcgroup.cgroup import Cgroup, Limits, controller_of
from agentcgroup.cgroup.limits import LIMITS
from agentcgroup.cgroup.unified import checked_data, checked_file
from agentcgroup.cli import main
from agentcgroup.config.loading import load
from agentcgroup.config.policy import Resolver
from agentcgroup.config.schema import schema
from agentcgroup.errors import ConfigError

pytestmark = pytest.mark.usefixtures("folder")


@pytest.mark.parametrize(
    "name",
    [
        *("memory.zswap.max", "memory.zswap.writeback", "memory.swap.high", "cpu.uclamp.max"),
        *("hugetlb.2MB.max", "hugetlb.1GB.rsvd.max", "rdma.max", "misc.max", "dmem.max"),
        *("io.bfq.weight", "io.prio.class", "cpuset.cpus.partition"),
    ],
)
def test_any_further_file_is_taken(name: str) -> None:
    assert checked_file(name) == name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cgroup.procs", "is not a limit: agentcgroup itself controls processes by cgroup.*"),
        ("cgroup.kill", "is not a limit: agentcgroup itself controls"),
        ("memory.max", "has a key of its own: write memory_max, outside of unified"),
        ("cpu.weight.nice", "would undo cpu_weight, which sets the same: write cpu_weight"),
        ("cpu.idle", "would undo cpu_weight"),
        ("memory.current", "is not a limit: the file is a statistic"),
        ("memory.events.local", "is not a limit: the file is a statistic"),
        ("cpuset.cpus.effective", "is not a limit: the file is a statistic"),
        ("hugetlb.2MB.events", "is not a limit: the file is a statistic"),
        ("io.pressure", "is not a limit: the file reports pressure"),
        ("memory.reclaim", "is not a limit: a write to the file reclaims memory once"),
        ("memory_zswap_max", "'memory_zswap_max' is not the name of a cgroup file"),
        ("../memory.zswap.max", "'../memory.zswap.max' is not the name of a cgroup file"),
        ("memory.zswap/max", "'memory.zswap/max' is not the name of a cgroup file"),
        ("memory..max", "'memory..max' is not the name of a cgroup file"),
        ("misc.max\n", "'misc.max\\n' is not the name of a cgroup file"),
        ("", "'' is not the name of a cgroup file: write CONTROLLER.NAME in quotes"),
        (5, "5 is not the name of a cgroup file"),
    ],
)
def test_what_would_undo_a_limit_or_is_none_is_refused(name: object, said: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(said)}"):
        checked_file(name)


def test_every_file_of_a_row_is_refused_with_its_key() -> None:
    for key, row in LIMITS.items():
        with pytest.raises(ValueError, match=f"write {key}, outside of unified"):
            checked_file(row.file)


@pytest.mark.parametrize("value", ["", "1\n2", "\0", "é", True, None, 1.5, ["1"], "x" * 1001])
def test_a_value_is_a_number_or_one_line(value: object) -> None:
    assert checked_data("res_a 5") == "res_a 5"
    assert checked_data(0) == "0"
    with pytest.raises(ValueError, match="is not a value of a cgroup file: write a number"):
        checked_data(value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '[limits.call.unified]\n"misc.max" = "0"\n"memory.max" = "1G"',
            '3: limits.call.unified."memory.max": has a key of its own: write memory_max',
        ),
        (
            '[limits.agent]\nunified."cgroup.procs" = "1"',
            '2: limits.agent.unified."cgroup.procs": is not a limit',
        ),
        (
            '[limits.run.unified]\nmemory.zswap.max = "0"',
            '2: limits.run.unified.memory: is a table: write the whole name in quotes, "memory.',
        ),
        (
            '[[rules]]\ntool = "x"\n[rules.unified]\n"misc.max" = ""',
            "4: rule 1: unified.\"misc.max\": '' is not a value of a cgroup file",
        ),
        ("[limits.call]\nunified = 5", "2: limits.call.unified: 5 is not a table: write"),
    ],
)
def test_a_refusal_names_file_line_and_key(text: str, said: str) -> None:
    Path("agentcgroup.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load()
    assert str(caught.value).startswith(f"agentcgroup.toml:{said}")


def test_rules_change_the_files_one_by_one() -> None:
    Path("agentcgroup.toml").write_text(
        """\
[limits.call.unified]
"memory.zswap.max" = "0"
"misc.max" = "res_a 5"
[limits.agent.unified]
"hugetlb.2MB.max" = 0
[[rules]]
tool = "build"
unified = { "memory.zswap.max" = "max" }
"""
    )
    one = Resolver(load())
    plain, build = (one.call("langchain", None, tool) for tool in ("plain", "build"))
    assert plain.limits.unified == {"memory.zswap.max": "0", "misc.max": "res_a 5"}
    assert build.limits.unified == {"memory.zswap.max": "max", "misc.max": "res_a 5"}
    assert one.agent("langchain", "coder").unified == {"hugetlb.2MB.max": "0"}
    assert one.run().unified is None
    assert one.controllers() == {"memory", "pids", "misc", "hugetlb"}
    assert json.loads(json.dumps(dict(build.asked)))["unified"] == build.limits.unified
    why = one.explain("langchain", None, "build")
    assert why["memory.zswap.max"].source == "agentcgroup.toml:8 rule 1"
    assert why["misc.max"].source == "agentcgroup.toml:3 [limits.call]"


def test_files_can_be_given_in_code_and_taken_off() -> None:
    one = Resolver(load({"limits": {"call": {"unified": {"misc.max": "res_a 5"}}}}))
    changed = one.call("langchain", None, "x", unified={"memory.zswap.max": 0})
    assert changed.limits.unified == {"misc.max": "res_a 5", "memory.zswap.max": "0"}
    assert one.call("langchain", None, "x", unified=None).limits.unified is None
    with pytest.raises(ConfigError, match=r'^call\(\): unified."pids.max": has a key of its own'):
        one.call("langchain", None, "x", unified={"pids.max": "5"})


def test_limits_with_other_files_are_other_limits() -> None:
    plain: Any = Limits(pids_max=5)
    one, other = (Limits(pids_max=5, unified={"misc.max": text}) for text in "12")
    assert len({plain, one, other}) == 3
    assert one == Limits(pids_max=5, unified={"misc.max": "1"})


def test_the_schema_has_the_table_at_every_level() -> None:
    tables = schema()["$defs"]
    for name in ("LimitTable", "CallLimits", "Rule"):
        assert tables[name]["properties"]["unified"]["additionalProperties"] == {
            "type": ["string", "integer"]
        }


def test_explain_shows_each_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("agentcgroup.toml").write_text('[limits.run]\nunified."misc.max" = "res_a 5"\n')
    with pytest.raises(SystemExit):
        main(["explain", "--tool", "x"])
    (row,) = [line.split() for line in capsys.readouterr().out.splitlines() if "misc.max" in line]
    assert row == ["misc.max", "res_a", "5", "agentcgroup.toml:2", "[limits.run]"]


def test_a_file_that_is_not_there_is_named_not_lost(box: Cgroup) -> None:
    with contextlib.closing(box.child("bare")) as bare:
        files = {"memory.zswap.max": "0", "misc.max": "res_a 5"}
        assert bare.set(Limits(unified=files)).keys() == set(files)
    assert [controller_of(file) for file in files] == ["memory", "misc"]
