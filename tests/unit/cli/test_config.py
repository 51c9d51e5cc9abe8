"""`agentcgroup config` and `agentcgroup explain`: their output and exit statuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path

import pytest

from agentcgroup.cgroup.limits import LIMITS
from agentcgroup.cli import main
from agentcgroup.cli.config import TEMPLATE
from agentcgroup.config.loading import load
from agentcgroup.config.reference import limits_page
from agentcgroup.config.schema import schema

pytestmark = pytest.mark.usefixtures("folder")

ROOT = Path(__file__).parents[3]


class Cli:
    """Runs a command line; returns its status and its output."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        status = caught.value.code
        assert isinstance(status, int)
        return status, *self._capsys.readouterr()


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


def test_the_version_is_the_distributions(cli: Cli) -> None:
    assert cli("--version") == (0, f"agentcgroup {version('agentcgroup')}\n", "")


def test_check_says_which_file_is_good(cli: Cli) -> None:
    assert cli("config", "check") == (
        0,
        "there is no configuration; the built-in defaults hold\n",
        "",
    )
    Path("agentcgroup.toml").write_text('[[rules]]\ntool = "x"\n')
    assert cli("config", "check") == (0, "agentcgroup.toml: no errors, 1 rule\n", "")
    Path("other.toml").write_text("")
    assert cli("config", "check", "other.toml") == (0, "other.toml: no errors, 0 rules\n", "")


def test_a_fault_is_a_message_and_status_2(cli: Cli) -> None:
    Path("agentcgroup.toml").write_text('[limits.call]\nmemory_mx = "1G"\n')
    expected = (
        "agentcgroup: agentcgroup.toml:2: limits.call.memory_mx: "
        "unknown key; did you mean memory_max?\n"
    )
    assert cli("config", "check") == (2, "", expected)
    assert cli("explain", "--tool", "x") == (2, "", expected)
    status, _, said = cli("config", "check", "no.toml")
    assert (status, said) == (
        2,
        "agentcgroup: no.toml: cannot read it: No such file or directory\n",
    )


def test_init_writes_a_file_that_teaches_and_never_overwrites(cli: Cli) -> None:
    file = Path("agentcgroup.toml")
    assert cli("config", "init")[0] == 0
    assert file.read_text() == TEMPLATE
    assert load() == load({"mode": "auto"})
    file.write_text("mine = true")
    status, _, said = cli("config", "init")
    assert (status, said) == (
        2,
        "agentcgroup: agentcgroup.toml: is there already; --force replaces it\n",
    )
    assert file.read_text() == "mine = true"
    assert cli("config", "init", "--force")[0] == 0
    assert file.read_text() == TEMPLATE


def test_everything_init_only_shows_is_right_too() -> None:
    """With every key uncommented, the file loads and its values are the defaults."""
    lines = [re.sub(r"^# (?=\[\[|\w+(\.\"8:0\")? = )", "", line) for line in TEMPLATE.splitlines()]
    uncommented = "\n".join(lines)
    assert uncommented.count("\n[[rules]]") == 4
    Path("all.toml").write_text(uncommented)
    config = load("all.toml")
    plain = load({})
    assert {rule.tool for rule in config.rules} == {"run_tests", "start_server", "load_csv", None}
    for key in ("memory_max", "memory_oom_group", "pids_max", "timeout"):
        assert getattr(config.limits.call, key) == getattr(plain.limits.call, key)
    for key in ("mode", "background", "records_max", "workers", "monitor"):
        assert getattr(config, key) == getattr(plain, key)


def test_the_published_schema_is_the_one_of_the_models(cli: Cli) -> None:
    status, printed, _ = cli("config", "schema")
    assert status == 0
    published = (ROOT / "docs" / "agentcgroup.schema.json").read_text(encoding="utf-8")
    assert json.loads(published) == json.loads(printed), (
        "agentcgroup config schema > docs/agentcgroup.schema.json"
    )


def test_the_schema_describes_every_key() -> None:
    whole = schema()
    for name, table in {"the file": whole, **whole["$defs"]}.items():
        for key, described in table["properties"].items():
            assert described.get("description"), f"{name}: {key}"
        assert table["additionalProperties"] is False
    assert "null" not in json.dumps(whole)


def test_explain_prints_values_and_lines(cli: Cli) -> None:
    Path("agentcgroup.toml").write_text(
        """\
[limits.agent]
cpu_max = "150%"
[limits.call]
memory_max = "1G"
io_max."8:0" = { rbps = "1M" }
cpu_max_burst = 500
[[rules]]
agent = "coder*"
tool = "run_tests"
memory_max = "3G"
"""
    )
    status, said, _ = cli("explain", "--agent", "coder-1", "--tool", "run_tests")
    assert status == 0
    rows = {tuple(line.split(maxsplit=1)) for line in said.splitlines() if line.startswith("  ")}
    table = {key: re.split(r"\s{2,}", rest) for key, rest in rows}
    assert table["memory_max"] == ["3 GiB", "agentcgroup.toml:10 rule 1"]
    assert table["cpu_max"] == ["150%", "agentcgroup.toml:2 [limits.agent]"]
    assert table["io_max"] == ["8:0 rbps=1048576", "agentcgroup.toml:5 [limits.call]"]
    assert table["cpu_max_burst"] == ["500 us", "agentcgroup.toml:6 [limits.call]"]
    assert table["memory_oom_group"] == ["true", "default"]
    assert table["timeout"] == ["10m", "default"]
    assert "mode auto, from agentcgroup.toml" in said
    assert "  no limits" in said  # [limits.run]


def test_explain_speaks_json(cli: Cli) -> None:
    Path("a.toml").write_text('[limits.call]\ncpu_max = "50%"\n')
    status, said, _ = cli("explain", "--tool", "x", "--config", "a.toml", "--json")
    assert status == 0
    found = json.loads(said)
    assert found["config"] == "a.toml"
    assert found["call"]["cpu_max"] == {
        "value": [50_000, 100_000],
        "source": "a.toml:2 [limits.call]",
    }
    assert found["call"]["memory_high"] == {"value": None, "source": "not set"}
    assert set(found) == {"config", "mode", "call", "agent", "run"}


def test_explain_asks_for_a_tool(cli: Cli) -> None:
    status, _, said = cli("explain", "--agent", "coder")
    assert status == 2
    assert "Missing option '--tool'" in said


@pytest.mark.parametrize("arguments", [("explain",), ("config", "check"), ("config", "init")])
def test_help_has_an_example(cli: Cli, arguments: tuple[str, ...]) -> None:
    status, said, _ = cli(*arguments, "--help")
    assert status == 0
    assert re.search(rf"^  agentcgroup {' '.join(arguments)} ", said, re.MULTILINE)


def test_an_unknown_command_gets_the_nearest(cli: Cli) -> None:
    status, _, said = cli("confg")
    assert status == 2
    assert "No such command 'confg'" in said


def test_the_installed_command_starts_without_a_traceback(folder: Path) -> None:
    """The console script runs in a process of its own, with a broken file."""
    (folder / "agentcgroup.toml").write_text("mode = 1\nx = 2\n")
    script = Path(sysconfig.get_path("scripts")) / "agentcgroup"
    done = subprocess.run(
        [sys.executable, script, "config", "check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("agentcgroup: agentcgroup.toml: 2 errors\n  agentcgroup.toml:1: ")


def test_importing_the_package_does_not_load_the_models() -> None:
    """Every agent runs `import agentcgroup` at its start; pydantic and typer load later."""
    code = (
        "import sys, agentcgroup, agentcgroup.units, agentcgroup.errors;"
        "print(sorted({'pydantic', 'typer', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_published_table_of_limits_is_made_from_the_rows() -> None:
    published = (ROOT / "docs" / "limits.md").read_text(encoding="utf-8")
    assert published == limits_page(), (
        "python -c 'from agentcgroup.config.reference import limits_page as page; "
        "print(page(), end=str())' > docs/limits.md"
    )


def test_init_shows_every_limit_once_with_its_help() -> None:
    limits_of_calls = TEMPLATE.partition("[limits.call]")[2].partition("[[rules]]")[0]
    for key, row in LIMITS.items():
        assert len(re.findall(rf"^# {key} = ", limits_of_calls, re.MULTILINE)) == 1, key
        assert limits_of_calls.count(f"# {row.help}") == 1, key
    assert max(map(len, TEMPLATE.splitlines())) <= 100
