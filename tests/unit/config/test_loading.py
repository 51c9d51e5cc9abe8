"""A configuration is found and read; each fault is reported with its file, line and key."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentcgroup.config.discovery import find
from agentcgroup.config.loading import Config, load
from agentcgroup.config.toml import parse
from agentcgroup.errors import ConfigError
from agentcgroup.place import capacity

Write = Callable[[str], str]


@pytest.fixture
def write(folder: Path) -> Write:
    def write(text: str) -> str:
        (folder / "agentcgroup.toml").write_text(text, encoding="utf-8")
        return "agentcgroup.toml"

    return write


def errors(config: Any) -> list[str]:
    """Load a faulty configuration; return the lines of the error."""
    with pytest.raises(ConfigError) as caught:
        load(config)
    return str(caught.value).splitlines()


# --- where it is found ------------------------------------------------------------------------


def test_without_any_file_the_defaults_hold(folder: Path) -> None:
    config = load()
    assert find() is None
    assert config == Config()
    assert config.mode == "auto"
    assert config.limits.call.timeout == 600
    assert config.limits.call.memory_oom_group is True
    assert config.limits.run.memory_max is None
    assert config.limits.call.memory_max == capacity.memory() // 2


def test_the_first_file_found_is_the_configuration(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are made in reverse order of precedence; each takes precedence over the earlier."""

    def found() -> int:
        return load().records_max

    user = tmp_path / "xdg" / "agentcgroup" / "config.toml"
    user.parent.mkdir(parents=True)
    user.write_text("records_max = 1")
    assert found() == 1
    (folder / "pyproject.toml").write_text("[tool.agentcgroup]\nrecords_max = 2")
    assert found() == 2
    (folder / "agentcgroup.toml").write_text("records_max = 3")
    assert found() == 3
    named = tmp_path / "named.toml"
    named.write_text("records_max = 4")
    monkeypatch.setenv("AGENTCGROUP_CONFIG", str(named))
    assert found() == 4
    given = tmp_path / "given.toml"
    given.write_text("records_max = 5")
    assert load(given).records_max == 5
    assert load({"records_max": 6}).records_max == 6
    assert load(Config(records_max=7)).records_max == 7


def test_a_link_to_nowhere_is_told_rather_than_passed_over(folder: Path) -> None:
    (folder / "agentcgroup.toml").symlink_to("missing.toml")
    assert errors(None) == ["agentcgroup.toml: cannot read it: No such file or directory"]


def test_files_are_not_merged(folder: Path) -> None:
    (folder / "pyproject.toml").write_text('[tool.agentcgroup]\nmode = "off"')
    (folder / "agentcgroup.toml").write_text("records_max = 3")
    assert load().mode == "auto"


def test_the_home_of_configurations_is_dot_config_by_default(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    # The XDG specification has relative paths ignored.
    monkeypatch.setenv("XDG_CONFIG_HOME", "xdg")
    file = tmp_path / ".config" / "agentcgroup" / "config.toml"
    file.parent.mkdir(parents=True)
    file.write_text('mode = "observe"')
    assert find() == str(file)


def test_a_pyproject_that_never_names_us_is_not_ours_to_refuse(folder: Path) -> None:
    (folder / "pyproject.toml").write_text("this is not TOML")
    assert load() == Config()
    (folder / "pyproject.toml").write_text('[project]\nname = "uses-agentcgroup"')
    assert load() == Config()


def test_a_pyproject_has_its_lines_too(folder: Path) -> None:
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "x"\n\n[tool.agentcgroup.limits.call]\npids_max = "many"\n'
    )
    (line,) = errors(None)
    assert line.startswith("pyproject.toml:5: limits.call.pids_max: 'many' is not a count")
    (folder / "pyproject.toml").write_text("[project]\n")
    assert errors("pyproject.toml") == ["pyproject.toml: has no table [tool.agentcgroup]"]
    (folder / "pyproject.toml").write_text("[tool]\nagentcgroup = 1\n")
    assert errors(None) == ["pyproject.toml:2: tool.agentcgroup: is not a table"]


def test_a_dict_has_the_shape_of_the_file(folder: Path) -> None:
    config = load({"limits": {"call": {"memory_max": "1G", "cpu_max": "150%"}}})
    assert config.limits.call.memory_max == 1024**3
    assert config.limits.call.cpu_max == (150_000, 100_000)
    (line,) = errors({"limits": {"call": {"memory_max": "1X"}}})
    assert line.startswith("config=: limits.call.memory_max: '1X' is not a size")


def test_a_configuration_stays_as_it_is(folder: Path) -> None:
    config = load({})
    with pytest.raises(ValueError, match="frozen"):
        config.mode = "off"


def test_two_loads_of_a_file_are_equal(write: Write) -> None:
    file = write('[[rules]]\ntool = "x"\npriority = "high"\n')
    assert load(file) == load(file)
    assert load(file) != load({})


def test_relative_paths_start_at_the_folder_of_the_file(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('records = "calls.jsonl"')
    assert load(tmp_path / "a.toml").records == str(tmp_path / "calls.jsonl")
    (tmp_path / "a.toml").write_text('records = "/var/log/calls.jsonl"')
    assert load(tmp_path / "a.toml").records == "/var/log/calls.jsonl"
    assert load({"records": Path("here.jsonl")}).records == "here.jsonl"


# --- files that cannot be read ----------------------------------------------------------------


def test_a_file_that_is_not_there_is_an_error_when_it_was_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert errors("no.toml") == ["no.toml: cannot read it: No such file or directory"]
    monkeypatch.setenv("AGENTCGROUP_CONFIG", "/no/such.toml")
    (line,) = errors(None)
    assert line == "/no/such.toml: there is no such file, and $AGENTCGROUP_CONFIG names it"
    monkeypatch.setenv("AGENTCGROUP_CONFIG", "")
    assert load() == Config()


def test_what_is_no_text_file_is_refused(folder: Path) -> None:
    (folder / "folder").mkdir()
    assert errors("folder") == ["folder: cannot read it: Is a directory"]
    os.mkfifo("pipe")
    assert errors("pipe") == ["pipe: cannot read it: it is not a regular file"]
    Path("latin.toml").write_bytes(b'# fine\nrecords = "\xe9t\xe9.jsonl"\n')
    assert errors("latin.toml") == ["latin.toml:2: is not UTF-8, as TOML must be"]
    Path("huge.toml").write_bytes(b"#" * (1 << 20) + b"\n")
    assert errors("huge.toml") == ["huge.toml: is larger than 1 MiB: this is not a configuration"]


def test_a_byte_order_mark_and_windows_line_ends_are_taken(folder: Path) -> None:
    Path("windows.toml").write_bytes(b'\xef\xbb\xbfmode = "off"\r\n[limits.call]\r\npids_max = 0')
    (line,) = errors("windows.toml")
    assert line.startswith("windows.toml:3: limits.call.pids_max")


def test_a_syntax_error_has_its_line(write: Write) -> None:
    (line,) = errors(write('mode = "auto"\n[limits.call\npids_max = 5\n'))
    assert line.startswith("agentcgroup.toml:2: is not TOML: ")
    (line,) = errors(write('mode = "auto"\nrecords = """\n'))
    assert line.startswith("agentcgroup.toml:3: is not TOML: ")
    (line,) = errors(write("x = " + "[" * 100_000))
    assert line == "agentcgroup.toml: is not TOML: it is nested too deeply"
    (line,) = errors(write("x = " + "9" * 5000))
    assert line.startswith("agentcgroup.toml: is not TOML: ")


# --- what is wrong in them --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('mode = "of"', "1: mode: 'of' is unknown: write 'auto', 'enforce', 'observe' or 'off'"),
        ("mdoe = 1", "1: mdoe: unknown key; did you mean mode?"),
        ('[workers]\nidle = "none"', "2: workers.idle: 'none' is no time to wait: write one such"),
        ("[workers]\nmax = -1", "2: workers.max: -1 is not a number of workers: write a whole"),
        ("[workers]\nmin = 9\nmax = 3", "2: workers.min: is 9, above max, which is 3: lower min"),
        ("[limit.call]", "1: limit: unknown key; did you mean limits?"),
        ("[limits.cal]", "1: limits.cal: unknown key; did you mean call?"),
        (
            '[limits.call]\n\nmemory_maxx = "1G"',
            "3: limits.call.memory_maxx: unknown key; did you mean memory_max?",
        ),
        (
            '[limits.call]\nmemory.max = "1G"',
            "2: limits.call.memory: unknown key; write memory_max, with '_' for '.'",
        ),
        (
            '[limits.agent]\ntimeout = "5m"',
            "2: limits.agent.timeout: unknown key here; timeout stands in [limits.call] or in "
            "[[rules]]",
        ),
        (
            '[limits.call]\nbackground = "keep"',
            "2: limits.call.background: unknown key here; background stands at the top of the file "
            "or in [[rules]]",
        ),
        ('memory_max = "1G"', "1: memory_max: unknown key here; memory_max stands in [limits.run]"),
        ("[monitor]\nmin = 2", "2: monitor.min: unknown key here; min stands in [workers]"),
        ('[limits.call]\nleftover_grace = "2h"', "2: limits.call.leftover_grace: '2h' is no short"),
        (
            '[[rules]]\ntool = "x"\nleftover_grace = "none"',
            "3: rule 1: leftover_grace: 'none' is no short time",
        ),
        (
            '[limits.call]\nmemory_max = "512X"',
            "2: limits.call.memory_max: '512X' is not a size: write a number with K, M, G or T, "
            "such as '512M', or 'max' for no limit",
        ),
        (
            "[limits.call]\nmemory_max = 512",
            "2: limits.call.memory_max: 512 is 512 B, less than any process needs; "
            "did you mean '512M'?",
        ),
        (
            '[limits.call]\nmemory_max = "512K"',
            "2: limits.call.memory_max: '512K' is 512 KiB, less than any process needs; "
            "write at least '1M'",
        ),
        (
            "[limits.call]\nmemory_high = 0",
            "2: limits.call.memory_high: 0 is 0 B, less than any process needs; write at least",
        ),
        ("[limits.call]\ncpu_max = 2", "2: limits.call.cpu_max: 2 is not a CPU limit"),
        (
            "[limits.call]\ncpu_weight = 0",
            "2: limits.call.cpu_weight: 0 is not a weight: write a whole number from 1 to 10000",
        ),
        ("[limits.call]\nio_weight = 10001", "2: limits.call.io_weight: 10001 is not a weight"),
        ("[limits.call]\ncpu_weight = true", "2: limits.call.cpu_weight: True is not a weight"),
        ("[limits.call]\npids_max = 0", "2: limits.call.pids_max: 0 is not a count"),
        ("[limits.call]\ntimeout = 0", "2: limits.call.timeout: 0 leaves no time at all"),
        ('[limits.call]\ntimeout = "10"', None),
        ('[limits.call]\ntimeout = "10 Minuten"', "2: limits.call.timeout: '10 Minuten' is not"),
        ('[limits.call]\nmemory_oom_group = "yes"', "2: limits.call.memory_oom_group: 'yes' is"),
        ('[limits.call]\ncpuset_cpus = "all"', "2: limits.call.cpuset_cpus: 'all' is not a list"),
        ('[limits.call]\ncpuset_cpus = "3-0"', "2: limits.call.cpuset_cpus: '3-0' runs backwards"),
        (
            '[limits.call.io_max."sda"]\nrbps = "1M"',
            "1: limits.call.io_max.sda: 'sda' is not a device",
        ),
        (
            '[limits.call.io_max."8:0"]\nrbps = "1M"\nwbsp = 5',
            '3: limits.call.io_max."8:0".wbsp: unknown key; did you mean wbps?',
        ),
        ('limits.call.io_max."8:0" = { rbps = 0 }', '1: limits.call.io_max."8:0".rbps: 0 would'),
        (
            '[limits.call]\nio_latency."8:0" = "5"\nio_latency."8:16" = "0ms"',
            "3: limits.call.io_latency.\"8:16\": '0ms' is no latency: write at least '1us'",
        ),
        ("[limits]\ncall = 5", "2: limits.call: 5 is not a table: write [limits.call]"),
        ('rules = "x"', "1: rules: is not an array of tables: write each as [[rules]]"),
        ("[rules]\ntool = 'x'", "1: rules: is not an array of tables: write each as [[rules]]"),
        ("rules = [5]", "1: rule 1: 5 is not a table: write [[rules]]"),
        ("[[rules]]\npids_max = 5", "1: rule 1: says for no call what it is for"),
        ('[[rules]]\ntool = "x"\n[[rules]]\ntool = ""', "4: rule 2: tool: '' is not a pattern"),
        (
            '[[rules]]\ntool = "x"\nisolation = "proces"',
            "3: rule 1: isolation: 'proces' is unknown: write 'auto', 'inline' or 'process'",
        ),
        ('[[rules]]\ntool = "x"\nbackground = "stay"', "3: rule 1: background: 'stay' is unknown"),
        ('[[rules]]\ntool = "x"\npriority = 5', "3: rule 1: priority: 5 is unknown: write 'high'"),
        (
            '[[rules]]\nagent = "x"\napplies_to = "agent"\ntimeout = "5s"',
            "3: rule 1: applies_to: 'agent' does not go with timeout",
        ),
        ("records = 5", "1: records: 5 is not a path"),
        ('cgroup_root = "agents.slice"', "1: cgroup_root: 'agents.slice' is not an absolute path"),
        ("records_max = -1", "1: records_max: -1 is not a number of records"),
        ("x = 1979-05-27", "1: x: unknown key"),
    ],
)
def test_a_fault_is_said_with_line_key_and_remedy(
    write: Write, text: str, said: str | None
) -> None:
    file = write(text + "\n")
    if said is None:
        load(file)
        return
    (line,) = errors(file)
    assert line.startswith(f"agentcgroup.toml:{said}")


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (
            'memory_high = "2G"\nmemory_max = "1G"',
            "2: limits.call.memory_high: is 2 GiB, above memory_max, which is 1 GiB",
        ),
        (
            'memory_max = "3G"\nmemory_high = "1G"\nmemory_low = "2G"',
            "4: limits.call.memory_low: is 2 GiB, above memory_high, which is 1 GiB",
        ),
        (
            'memory_max = "1G"\nmemory_low = "2G"',
            "3: limits.call.memory_low: is 2 GiB, above memory_max, which is 1 GiB",
        ),
        (
            'memory_max = "1G"\nmemory_min = "2G"',
            "3: limits.call.memory_min: is 2 GiB, above memory_max, which is 1 GiB",
        ),
        (
            'memory_high = "1G"\nmemory_min = "2G"\nmemory_max = "3G"',
            "3: limits.call.memory_min: is 2 GiB, above memory_high, which is 1 GiB",
        ),
        (
            'cpu_max = "50%"\ncpu_max_burst = 60000',
            "3: limits.call.cpu_max_burst: is 60000 microseconds, above the quota of cpu_max",
        ),
    ],
)
def test_an_impossible_pair_names_both_keys(write: Write, table: str, said: str) -> None:
    (line,) = errors(write(f"[limits.call]\n{table}\n"))
    assert line.startswith(f"agentcgroup.toml:{said}")


def test_what_only_looks_like_an_impossible_pair_is_taken(write: Write) -> None:
    """Every value is below a missing bound; "max" as a protection protects all memory."""
    load(write('[limits.call]\nmemory_high = "max"\nmemory_max = "1G"\nmemory_min = "max"\n'))
    load(write('[limits.call]\nmemory_high = "1G"\nmemory_max = "1G"\n'))
    load(write('[limits.call]\ncpu_max = "max"\ncpu_max_burst = 60000\n'))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '[limits.call]\nmemory_high = "1G"\nmemory_max = "max"\ntimeout = "none"',
            "2: limits.call.memory_high",
        ),
        ('[limits.agent]\nmemory_high = "1G"\n[limits.call]\ntimeout = "none"', "2: limits.agent"),
        ('[limits.run]\nmemory_high = "1G"\n[limits.call]\ntimeout = "none"', "2: limits.run"),
        (
            '[limits.run]\nmemory_high = "1G"\n[[rules]]\ntool = "x"\ntimeout = "none"',
            "2: limits.run",
        ),
        (
            '[limits.call]\nmemory_high = "1G"\n[[rules]]\ntool = "x"\nmemory_max = "max"\n'
            'timeout = "none"',
            "3: rule 1",
        ),
        (
            '[limits.call]\ntimeout = "none"\n[[rules]]\nagent = "x"\napplies_to = "agent"\n'
            'memory_high = "1G"',
            "3: rule 1",
        ),
    ],
)
def test_memory_high_alone_is_refused_because_it_hangs(write: Write, text: str, said: str) -> None:
    (line,) = errors(write(text))
    assert line.startswith(f"agentcgroup.toml:{said}")
    assert line.endswith("add memory_max or a timeout")


def test_memory_high_with_an_end_is_taken(write: Write) -> None:
    load(write('[limits.call]\nmemory_high = "1G"\nmemory_max = "max"\n'))
    load(write('[limits.call]\nmemory_high = "1G"\ntimeout = "none"\n'))
    load(write('[limits.agent]\nmemory_high = "1G"\n'))


def test_one_look_finds_everything(write: Write) -> None:
    said = errors(
        write(
            """\
mode = "of"
[limits.call]
memry_max = "1G"
memory_max = "512X"
memory_high = "3G"
memory_low = "4G"
[limits.agent]
memory_high = "1G"
memory_max = "512M"
[[rules]]
pids_max = 0
tool = "x"
[[rules]]
tool = "y"
timeout = "1x"
"""
        )
    )
    assert said[0] == "agentcgroup.toml: 7 errors"
    starts = [line.split(": ")[0].strip() for line in said[1:]]
    assert starts == [f"agentcgroup.toml:{line}" for line in (1, 3, 4, 6, 8, 11, 15)]


def test_the_error_carries_its_parts(write: Write) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write("\n[limits.call]\npids_max = 0\n"))
    error = caught.value
    assert (error.file, error.line, error.key) == ("agentcgroup.toml", 3, "limits.call.pids_max")


# --- lines ------------------------------------------------------------------------------------


def test_every_way_to_write_a_key_has_its_line() -> None:
    text = '''\
# comment = 1
a = "x = 1" # [not.a.table]
b = """
c = 1
[d]
\\""" still ""\\""" """
e = \'\'\'
f = 1\'\'\'\'
g = [ # ]
  "]", { h = 1 },
  2]
"i.j" . 'k l' = { m = 1, "n" = [ "}" ] }
[ o . "p.q" ]
r.s = 1
r.t = 2
[[u]]
v = 1
[u.w]
x = 1
[[u]]
v = 2
[[u.y]]
z = 1
[[u.y]]
z = 2
"\\u00e9" = 3
'''
    document = parse(text, "t.toml")
    lines = {
        ("a",): 2,
        ("b",): 3,
        ("c",): None,
        ("d",): None,
        ("e",): 7,
        ("f",): None,
        ("g",): 9,
        ("g", 1, "h"): 9,
        ("i.j", "k l"): 12,
        ("i.j", "k l", "m"): 12,
        ("o",): 13,
        ("o", "p.q"): 13,
        ("o", "p.q", "r"): 14,
        ("o", "p.q", "r", "s"): 14,
        ("o", "p.q", "r", "t"): 15,
        ("u", 0, "v"): 17,
        ("u", 0, "w"): 18,
        ("u", 0, "w", "x"): 19,
        ("u", 1): 20,
        ("u", 1, "v"): 21,
        ("u", 1, "y", 0, "z"): 23,
        ("u", 1, "y", 1): 24,
        ("u", 1, "y", 1, "z"): 25,
        ("u", 1, "y", 1, "\u00e9"): 26,
    }
    assert {path: document.line(path) for path in lines} == lines
