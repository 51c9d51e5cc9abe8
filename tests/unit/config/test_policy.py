"""Defaults, tables, rules and code make the policy of a call; each value has its source."""

from __future__ import annotations

import sys
import threading
import timeit
from pathlib import Path
from typing import Any

import pytest

from agentcgroup.cgroup.limits import LIMITS
from agentcgroup.config.loading import load
from agentcgroup.config.policy import Resolver
from agentcgroup.errors import ConfigError

M = 1024**2
G = 1024**3


def resolver(**config: Any) -> Resolver:
    return Resolver(load(config))


def rules(*rules: dict[str, Any], **call: Any) -> Resolver:
    return resolver(limits={"call": call}, rules=list(rules))


def test_the_defaults_stop_a_runaway_and_nothing_else() -> None:
    policy = resolver().call("langchain", "coder", "shell")
    assert policy.limits.pids_max == 2048
    assert policy.limits.memory_oom_group is True
    assert policy.limits.memory_high is None
    assert policy.timeout == 600
    assert policy.leftover_grace == 0.2
    assert (policy.background, policy.isolation, policy.priority) == ("auto", "auto", "normal")
    assert (policy.reuse, policy.on_unshippable) == (1, "error")
    limits = resolver().agent("langchain", "coder")
    assert limits == resolver().run()
    assert all(getattr(limits, key) is None for key in limits.__slots__)


def test_a_file_that_sets_one_key_keeps_the_defaults_of_the_others() -> None:
    policy = rules(memory_max="1G").call("langchain", None, "shell")
    assert policy.limits.memory_max == G
    assert policy.limits.pids_max == 2048
    assert policy.timeout == 600


def test_a_limit_can_be_taken_off() -> None:
    policy = rules(memory_max="max", pids_max="max", timeout="none").call("langchain", None, "x")
    assert policy.limits.memory_max == "max"
    assert policy.limits.pids_max == "max"
    assert policy.timeout is None
    assert policy.limits.memory_swap_max is None


def test_later_rules_win_key_by_key() -> None:
    one = rules(
        {"tool": "run_*", "memory_max": "1G", "pids_max": 10},
        {"tool": "run_tests", "memory_max": "3G"},
        {"tool": "other", "memory_max": "5G"},
        pids_max=99,
        timeout="1m",
    )
    policy = one.call("langchain", "coder", "run_tests")
    assert (policy.limits.memory_max, policy.limits.pids_max, policy.timeout) == (3 * G, 10, 60)
    policy = one.call("langchain", "coder", "run_lint")
    assert (policy.limits.memory_max, policy.limits.pids_max) == (G, 10)
    assert one.call("langchain", "coder", "cat").limits.pids_max == 99


def test_a_rule_asks_for_all_its_globs() -> None:
    one = rules({"framework": "lang*", "agent": "coder-?", "tool": "[rs]un", "pids_max": 5})
    hit = one.call("langchain", "coder-1", "run")
    assert hit.limits.pids_max == 5
    for miss in (
        ("autogen", "coder-1", "run"),
        ("langchain", "coder-12", "run"),
        ("langchain", "coder-1", "gun"),
        ("langchain", "Coder-1", "run"),
        ("langchain", "coder-1", "run\n"),
        ("langchain", None, "run"),
    ):
        assert one.call(*miss).limits.pids_max == 2048, miss


@pytest.mark.parametrize(("glob", "hit"), [(None, True), ("*", True), ("?*", False), ("", None)])
def test_code_outside_every_agent_matches_any_agent_only(glob: str | None, hit: bool) -> None:
    rule: dict[str, Any] = {"tool": "*", "pids_max": 5}
    if glob is not None:
        rule["agent"] = glob
    if hit is None:
        with pytest.raises(ConfigError, match="not a pattern"):
            rules(rule)
    else:
        assert (rules(rule).call("langchain", None, "x").limits.pids_max == 5) is hit


def test_rules_for_agents_and_rules_for_calls_keep_apart() -> None:
    one = resolver(
        limits={"agent": {"memory_max": "4G"}, "run": {"memory_max": "8G"}},
        rules=[
            {"agent": "coder*", "memory_max": "1G"},
            {"agent": "coder*", "applies_to": "agent", "memory_max": "6G", "priority": "low"},
        ],
    )
    assert one.call("langchain", "coder-1", "x").limits.memory_max == G
    assert one.agent("langchain", "coder-1").memory_max == 6 * G
    assert one.agent("langchain", "coder-1").cpu_weight == 10
    assert one.agent("langchain", "writer").memory_max == 4 * G
    assert one.agent("langchain", None).memory_max == 4 * G
    assert one.run().memory_max == 8 * G


def test_a_priority_is_a_weight_unless_its_own_table_has_one() -> None:
    one = rules(
        {"tool": "a", "priority": "high"},
        {"tool": "b", "priority": "high", "cpu_weight": 300},
        {"tool": "c", "priority": "low"},
        {"tool": "d", "priority": "low"},
        {"tool": "d", "cpu_weight": 70},
        cpu_weight=100,
    )
    weights = {tool: one.call("crewai", None, tool).limits.cpu_weight for tool in "abcdx"}
    assert weights == {"a": 1000, "b": 300, "c": 10, "d": 70, "x": 100}
    assert one.call("crewai", None, "a").priority == "high"


def test_memory_max_brings_its_swap_bound_unless_that_was_written() -> None:
    assert rules(memory_max="1G").call("langchain", None, "x").limits.memory_swap_max == 0
    both = rules(memory_max="1G", memory_swap_max="2G")
    assert both.call("langchain", None, "x").limits.memory_swap_max == 2 * G
    assert resolver(limits={"run": {"memory_max": "1G"}}).run().memory_swap_max == 0
    assert resolver(limits={"run": {"pids_max": 5}}).run().memory_swap_max is None


def test_a_rule_that_lowers_memory_max_takes_what_is_below_it_along() -> None:
    one = rules(
        {"tool": "small", "memory_max": "512M"},
        {"tool": "slow", "cpu_max": "10%"},
        memory_max="4G",
        memory_high="3G",
        memory_low="2G",
        memory_min="1G",
        cpu_max="100%",
        cpu_max_burst=50_000,
    )
    limits = one.call("langchain", None, "small").limits
    assert limits.memory_high == limits.memory_low == limits.memory_min == 512 * M
    assert one.call("langchain", None, "slow").limits.cpu_max_burst == 10_000
    why = one.explain("langchain", None, "small")
    assert why["memory_high"].source == "config= [limits.call], lowered to memory_max"
    assert one.call("langchain", None, "other").limits.memory_high == 3 * G


def test_a_default_gives_way_to_what_somebody_wrote() -> None:
    one = rules({"tool": "*", "memory_high": "8000T"})
    limits = one.call("langchain", None, "x").limits
    assert limits.memory_high == limits.memory_max == 8000 * 1024**4
    assert one.explain("langchain", None, "x")["memory_max"].source == (
        "default, raised with config= rule 1"
    )


def test_rules_that_leave_memory_high_alone_together_get_a_timeout() -> None:
    one = rules(
        {"tool": "*", "memory_max": "max"},
        {"tool": "x", "timeout": "none"},
        memory_high="1G",
    )
    assert one.call("langchain", None, "x").timeout == 600
    assert one.explain("langchain", None, "x")["timeout"].source == (
        "default, since memory_high stands alone"
    )


def test_io_bounds_reach_the_limits_as_numbers() -> None:
    one = rules(io_max={"8:0": {"rbps": "10M", "wiops": 100}, "259:1": {"wbps": "max"}})
    assert one.call("langchain", None, "x").limits.io_max == {
        "8:0": {"rbps": 10 * M, "wiops": 100},
        "259:1": {"wbps": "max"},
    }


def test_latency_targets_reach_the_limits_as_microseconds() -> None:
    one = rules(io_latency={"8:0": "5ms", "259:1": 0.25, "253:0": "none"})
    limits = one.call("langchain", None, "x").limits
    assert limits.io_latency == {"8:0": 5000, "259:1": 250_000, "253:0": "max"}
    assert "io" in one.controllers()


# --- limits given in code ---------------------------------------------------------------------


def test_limits_given_in_code_win() -> None:
    one = rules(memory_high="2G", memory_max="4G")
    policy = one.call("langchain", None, "x")
    changed = one.override(policy, memory_max="1G", timeout="5s", priority="high")
    assert changed.limits.memory_max == changed.limits.memory_high == G
    assert changed.timeout == 5
    assert changed.limits.cpu_weight == 1000
    assert changed.limits.pids_max == policy.limits.pids_max
    assert one.override(policy) is policy
    assert one.override(policy, timeout=None).timeout is None
    assert one.override(policy, cpu_max=(50_000, 100_000)).limits.cpu_max == (50_000, 100_000)
    assert one.override(policy, background="keep").background == "keep"
    assert one.override(policy, memory_max=None).limits.memory_max is None
    assert one.override(policy, background=None, priority=None) == policy


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"memory_mx": "1G"}, "call(): memory_mx: unknown key; did you mean memory_max?"),
        ({"memory_max": "1X"}, "call(): memory_max: '1X' is not a size"),
        (
            {"memory_max": "1G", "memory_high": "2G"},
            "call(): memory_high: is 2 GiB, above memory_max, which is 1 GiB",
        ),
        (
            {"memory_high": "1G", "memory_max": "max", "timeout": None},
            "call(): memory_high: memory_high alone slows a process down",
        ),
        ({"tool": "x"}, "call(): tool: unknown key"),
    ],
)
def test_faults_in_code_name_the_call(changes: dict[str, Any], said: str) -> None:
    one = resolver()
    with pytest.raises(ConfigError) as caught:
        one.override(one.call("langchain", None, "x"), **changes)
    assert str(caught.value).startswith(said)


def test_an_agents_limits_can_be_given_in_code() -> None:
    one = resolver(limits={"agent": {"memory_max": "4G", "pids_max": 7}})
    limits = one.agent("langchain", "coder")
    changed = one.override_agent(limits, memory_max="1G")
    assert (changed.memory_max, changed.pids_max) == (G, 7)
    assert one.override_agent(limits) is limits
    with pytest.raises(ConfigError, match=r"^agent\(\): timeout: unknown key"):
        one.override_agent(limits, timeout="5s")
    endless = rules(timeout="none")
    with pytest.raises(ConfigError, match=r"^agent\(\): memory_high: memory_high alone"):
        endless.override_agent(endless.agent("langchain", "coder"), memory_high="1G")


# --- why --------------------------------------------------------------------------------------


def test_every_key_says_which_line_set_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("agentcgroup.toml").write_text(
        """\
background = "keep"
[limits.agent]
memory_max = "4G"
[limits.call]
memory_max = "1G"
timeout = "5m"
[[rules]]
tool = "nothing"
pids_max = 1
[[rules]]
tool = "run_*"
memory_max = "3G"
priority = "high"
"""
    )
    one = Resolver(load())
    why = {key: set_by.source for key, set_by in one.explain("x", None, "run_tests").items()}
    set_here = {"memory_max", "memory_swap_max", "memory_oom_group", "pids_max", "cpu_weight"}
    assert why == {
        "memory_max": "agentcgroup.toml:12 rule 2",
        "memory_swap_max": "default with memory_max",
        "memory_oom_group": "default",
        "pids_max": "default",
        "cpu_weight": "agentcgroup.toml:13 rule 2, priority",
        "timeout": "agentcgroup.toml:6 [limits.call]",
        "background": "agentcgroup.toml:1",
        "leftover_grace": "default",
        "isolation": "default",
        "reuse": "default",
        "on_unshippable": "default",
        "priority": "agentcgroup.toml:13 rule 2",
        **dict.fromkeys(LIMITS.keys() - set_here, "not set"),
    }
    assert one.explain_agent("x", None)["memory_max"].source == "agentcgroup.toml:3 [limits.agent]"
    assert one.explain_run()["memory_max"].source == "not set"


def test_where_a_tool_runs_is_said_by_table_rule_or_code_and_known_by_the_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("agentcgroup.toml").write_text(
        """\
[limits.call]
isolation = "process"
[[rules]]
tool = "live_*"
isolation = "inline"
[[rules]]
tool = "embed"
isolation = "process"
reuse = 50
on_unshippable = "inline"
"""
    )
    one = Resolver(load())
    said = {
        tool: (policy.isolation, policy.reuse, policy.on_unshippable, policy.isolation_source)
        for tool in ("parse", "live_query", "embed")
        for policy in (one.call("langchain", None, tool),)
    }
    assert said == {
        "parse": ("process", 1, "error", "agentcgroup.toml:2 [limits.call]"),
        "live_query": ("inline", 1, "error", "agentcgroup.toml:5 rule 1"),
        "embed": ("process", 50, "inline", "agentcgroup.toml:8 rule 2"),
    }
    parse = one.call("langchain", None, "parse")
    assert one.override(parse, memory_max="1G").isolation_source == parse.isolation_source
    inline = one.override(parse, isolation="inline", reuse=3)
    assert (inline.isolation, inline.reuse, inline.isolation_source) == ("inline", 3, "call()")


# --- names come from models -------------------------------------------------------------------


def test_no_flood_of_names_fills_the_memory() -> None:
    one = rules({"tool": "known", "pids_max": 5})
    for number in range(10_000):
        one.call("langchain", "coder", f"tool-{number}")
        one.agent("langchain", f"agent-{number}")
    assert one._known_calls.cache_info().currsize <= 4096
    assert one._known_agents.cache_info().currsize <= 4096
    before = one._known_calls.cache_info().currsize, one._known_agents.cache_info().currsize
    long = "x" * 1_000_000
    one.call("langchain", "coder", long)
    one.call("langchain", long, "x")
    one.agent("langchain", long)
    assert before == (
        one._known_calls.cache_info().currsize,
        one._known_agents.cache_info().currsize,
    )
    assert one.call("langchain", "coder", "known").limits.pids_max == 5


def test_a_hostile_name_cannot_stall_a_glob() -> None:
    one = rules({"tool": "*a*b*c*d*e*f*", "pids_max": 5})
    hostile = "abcde" * 20_000
    assert timeit.timeit(lambda: one.call("langchain", None, hostile), number=1) < 1


def test_a_repeated_question_is_looked_up() -> None:
    """A hit of the cache takes 0.1 us; a resolution has no place in the hot path."""
    one = resolver()
    first = one.call("langchain", "coder", "shell")
    before = one._known_calls.cache_info()
    assert all(one.call("langchain", "coder", "shell") is first for _ in range(100))
    after = one._known_calls.cache_info()
    assert (after.hits - before.hits, after.misses - before.misses) == (100, 0)


def test_many_threads_get_one_answer() -> None:
    one = rules({"tool": "tool-1*", "pids_max": 5})
    wrong: list[str] = []

    def ask() -> None:
        for number in range(500):
            tool = f"tool-{number}"
            expected = 5 if tool.startswith("tool-1") else 2048
            if one.call("langchain", None, tool).limits.pids_max != expected:
                wrong.append(tool)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []


def test_the_controllers_needed_are_those_of_what_is_configured() -> None:
    """Defaults need memory and pids; a rule adds what it names, a priority adds cpu."""
    assert Resolver(load({})).controllers() == {"memory", "pids"}
    rules = [{"tool": "a", "priority": "high"}, {"agent": "b", "io_weight": 50}]
    assert Resolver(load({"rules": rules})).controllers() == {"memory", "pids", "cpu", "io"}
    assert Resolver(load({"limits": {"run": {"cpuset_cpus": "0"}}})).controllers() == {
        "memory",
        "pids",
        "cpuset",
    }
