"""Each benchmark runs, measures every variant, and writes its result and its table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.report import Report
from benchmarks.isolation.report import REPORT as ISOLATION
from benchmarks.monitor.report import REPORT as MONITOR
from benchmarks.overhead.report import REPORT as OVERHEAD

ROOT = Path(__file__).parents[2]


def measured(name: str, folder: Path, *options: str) -> tuple[dict[str, Any], str]:
    """Run a benchmark; return its result and its output."""
    file = folder / "result.json"
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *options, "--json", file],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(file.read_text()), done.stdout


def test_a_quick_run_measures_every_variant_or_says_why_not(tmp_path: Path) -> None:
    """The result has all variants. The test ignores the figures: the machine may be loaded."""
    result, printed = measured("overhead", tmp_path, "--quick")
    inline, launch = result["cells"]
    assert inline["variants"].keys() == {"plain", "agentcgroup"}
    assert {"plain", "agentcgroup"} <= launch["variants"].keys()
    others = launch["variants"].keys() | launch["missing"].keys()
    assert others == {"plain", "agentcgroup", "bubblewrap", "crun", "shell wrapper"}
    assert all(figures["runs"] >= 10 for figures in launch["variants"].values())
    for name in others:
        assert f"| {name} |" in printed


def test_a_quick_run_measures_what_the_monitor_costs(tmp_path: Path) -> None:
    few = ["--rounds", "1", "--processes", "5", "--trips", "50"]
    result, printed = measured("monitor", tmp_path, *few)
    for cell in result["cells"].values():
        assert cell.keys() == {"off", "default", "full"}
        assert cell["off"]["ratio"] == 1
        assert all(variant["us"] > 0 for variant in cell.values())
    assert result["begin_and_end_us"] > 0
    assert "| begin and end of a call |" in printed


def test_a_quick_run_compares_every_pool(tmp_path: Path) -> None:
    result, _ = measured("isolation", tmp_path, "--quick", "--tool", "trivial")
    (cell,) = result["cells"]
    assert {"direct", "agentcgroup", "agentcgroup, reuse", "loky", "pebble"} < {*cell["variants"]}
    assert all(figures["runs"] >= 5 for figures in cell["variants"].values())


@pytest.mark.parametrize("report", [OVERHEAD, MONITOR, ISOLATION])
def test_the_tables_are_those_of_the_kept_results(report: Report) -> None:
    assert (report.folder / "RESULTS.md").read_text() == report.document()
