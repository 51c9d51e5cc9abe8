"""The benchmark runs, sees what it is to compare, and writes what it says it writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_quick_run_measures_every_variant_or_says_why_not(tmp_path: Path) -> None:
    """All variants are in the result; figures are not looked at, since machines are loaded."""
    file = tmp_path / "result.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.overhead", "--quick", "--json", file],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(file.read_text())
    inline, launch = result["cells"]
    assert inline["variants"].keys() == {"plain", "agentcgroup"}
    assert {"plain", "agentcgroup"} <= launch["variants"].keys()
    others = launch["variants"].keys() | launch["missing"].keys()
    assert others == {"plain", "agentcgroup", "bubblewrap", "crun", "shell wrapper"}
    assert all(figures["runs"] >= 10 for figures in launch["variants"].values())
    for name in others:
        assert f"| {name} |" in done.stdout


def test_a_quick_run_measures_what_the_monitor_costs(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    few = ["--rounds", "1", "--processes", "5", "--trips", "50"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.monitor", *few, "--json", file],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(file.read_text())
    for cell in result["cells"].values():
        assert cell.keys() == {"off", "default", "full"}
        assert cell["off"]["ratio"] == 1
        assert all(variant["us"] > 0 for variant in cell.values())
    assert result["begin_and_end_us"] > 0
    assert "| begin and end of a call |" in done.stdout


def test_a_quick_run_compares_every_pool(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    options = ["--quick", "--tool", "trivial", "--json", file]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.isolation", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (cell,) = json.loads(file.read_text())["cells"]
    assert {"direct", "agentcgroup", "agentcgroup, reuse", "loky", "pebble"} < {*cell["variants"]}
    assert all(figures["runs"] >= 5 for figures in cell["variants"].values())
