"""Which frameworks `register` takes, and adapters that other distributions bring."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import agentcgroup
from agentcgroup import ConfigError

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a distribution that declares an adapter for "toyframe" in a module of this text."""

    def install(module: str, *, name: str = "toyframe") -> None:
        info = tmp_path / "toyframe_agentcgroup-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toyframe-agentcgroup\n")
        (info / "entry_points.txt").write_text(
            f"[agentcgroup.adapters]\n{name} = toyframe_agentcgroup\n"
        )
        (tmp_path / "toyframe_agentcgroup.py").write_text(module)
        monkeypatch.syspath_prepend(str(tmp_path))

    yield install
    agentcgroup.unregister()
    for name in ("toyframe_agentcgroup", "toyframe.tools", "toyframe"):
        sys.modules.pop(name, None)


def test_the_documented_adapter_is_found_by_its_entry_point(
    install: Install, tmp_path: Path
) -> None:
    """The small adapter of docs/adapters.md: hooked at the import, recorded, and answering."""
    install(_documented())
    (tmp_path / "toyframe").mkdir()
    (tmp_path / "toyframe" / "tools.py").write_text(
        "import subprocess\n"
        "class Tool:\n"
        "    def call(self, command):\n"
        "        return subprocess.run(command, stdout=-1, text=True).stdout\n"
        "class Shell(Tool): pass\n"
    )
    session = agentcgroup.register("toyframe", config={"limits": {"call": {"timeout": "3s"}}})
    assert "toyframe" not in sys.modules
    shell = importlib.import_module("toyframe.tools").Shell()

    assert shell.call(["echo", "hi"]) == "hi\n"
    assert "time limit of 3s (timeout)" in shell.call(["sleep", "60"])
    # One that met a limit is handed out at once, others a little later.
    records = sorted(session.records, key=lambda one: one.started_at)
    names = [(one.framework, one.tool, one.outcome) for one in records]
    assert names == [("toyframe", "Shell", "ok"), ("toyframe", "Shell", "timeout")]
    agentcgroup.unregister()
    assert shell.call(["echo", "free"]) == "free\n"
    assert len(session.records) == 2


def _documented() -> str:
    """Return the last block of code in docs/adapters.md."""
    text = (Path(__file__).parents[3] / "docs" / "adapters.md").read_text()
    return textwrap.dedent(text.partition("The whole of a small one:\n")[2])


def test_registering_all_asks_no_third_party(install: Install) -> None:
    """Without names it is those of ours that are installed: scanning would cost milliseconds."""
    install("raise AssertionError('imported')\n")
    agentcgroup.register()
    assert "toyframe_agentcgroup" not in sys.modules


def test_a_name_that_nobody_declares_is_an_error_with_the_nearest(install: Install) -> None:
    """Declared names are known names, too."""
    install("")
    with pytest.raises(ConfigError, match=r"'toyfame'; did you mean 'toyframe'\?.*crewai"):
        agentcgroup.register("toyfame")
    with pytest.raises(ConfigError, match=r"'langchian'; did you mean 'langchain'\?"):
        agentcgroup.register("langchian")


@pytest.mark.parametrize(
    ("module", "told"),
    [
        ("import not_there_at_all", "cannot be loaded: No module named 'not_there_at_all'"),
        ("instal = 1", r"has no install\(\)"),
    ],
)
def test_a_broken_adapter_is_an_error_that_names_it(
    install: Install, module: str, told: str
) -> None:
    """Which entry point it is, and what is wrong with it; nothing is registered."""
    install(module)
    with pytest.raises(ConfigError, match=rf"'toyframe' \(toyframe_agentcgroup\) {told}"):
        agentcgroup.register("toyframe")
    assert agentcgroup.current_call() is None
