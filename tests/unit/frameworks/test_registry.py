"""The frameworks that `register` takes, and adapters that other distributions declare."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import agentcgroup
from agentcgroup import ConfigError
from agentcgroup import adapter as stable
from agentcgroup.adapter import Adapter, FrameworkAdapter
from agentcgroup.frameworks import registry

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a distribution that declares an adapter for "toyframe" in a module of this text."""

    def install(module: str, *, name: str = "toyframe", attribute: str = "") -> None:
        info = tmp_path / "toyframe_agentcgroup-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toyframe-agentcgroup\n")
        (info / "entry_points.txt").write_text(
            f"[agentcgroup.adapters]\n{name} = toyframe_agentcgroup{attribute}\n"
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
    """The small adapter of docs/adapters.md hooks the framework at its import, and answers."""
    install(_documented(), attribute=":adapter")
    (tmp_path / "toyframe").mkdir()
    (tmp_path / "toyframe" / "__init__.py").touch()
    (tmp_path / "toyframe" / "tools.py").write_text(
        "import subprocess\n"
        "class Tool:\n"
        "    def call(self, command):\n"
        "        return self.work(command)\n"
        "class Shell(Tool):\n"
        "    def work(self, command):\n"
        "        return subprocess.run(command, stdout=-1, text=True).stdout\n"
    )
    session = agentcgroup.register("toyframe", config={"limits": {"call": {"timeout": "3s"}}})
    assert "toyframe" not in sys.modules
    shell = importlib.import_module("toyframe.tools").Shell()

    assert shell.call(["echo", "hi"]) == "hi\n"
    assert "time limit of 3s (timeout)" in shell.call(["sleep", "60"])
    # The record of a call that met a limit is handed out at once, others a little later.
    records = sorted(session.records, key=lambda one: one.started_at)
    names = [(one.framework, one.tool, one.outcome) for one in records]
    assert names == [("toyframe", "Shell", "ok"), ("toyframe", "Shell", "timeout")]
    agentcgroup.unregister()
    assert shell.call(["echo", "free"]) == "free\n"
    assert len(session.records) == 2


def _documented() -> str:
    """Return the adapter in one module of docs/adapters.md."""
    text = (Path(__file__).parents[3] / "docs" / "adapters.md").read_text()
    _, _, after = text.partition("A small adapter fits in one module:\n\n```python\n")
    return after.partition("```")[0]


def test_the_page_on_adapters_has_every_stable_name() -> None:
    page = (Path(__file__).parents[3] / "docs" / "adapters.md").read_text()
    assert [name for name in stable.__all__ if f"`{name}`" not in page] == []
    assert [name for name in stable.__all__ if not hasattr(stable, name)] == []


def test_registering_all_asks_no_third_party(install: Install) -> None:
    """Without names `register` reads no entry points, which would take milliseconds."""
    install("raise AssertionError('imported')\n")
    agentcgroup.register()
    assert "toyframe_agentcgroup" not in sys.modules


def test_a_name_that_nobody_declares_is_an_error_with_the_nearest(install: Install) -> None:
    """The names that entry points declare are among the known ones."""
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
        (
            "def install(): ...\nname = 1",
            r"has no modules\(\), owns\(\), bodies\(\), name, req",
        ),
        ("raise SystemExit(3)", "cannot be loaded: SystemExit: 3"),
    ],
)
def test_a_broken_adapter_is_an_error_that_names_it(
    install: Install, module: str, told: str
) -> None:
    """The error names the entry point and the fault; nothing is registered."""
    install(module)
    with pytest.raises(ConfigError, match=rf"'toyframe' \(toyframe_agentcgroup\) {told}"):
        agentcgroup.register("toyframe")
    assert agentcgroup.current_call() is None


@pytest.mark.parametrize("name", registry.FRAMEWORKS)
def test_each_adapter_of_ours_has_every_member_of_the_protocol(name: str) -> None:
    """Mypy checks the types: `FrameworkAdapter` derives from `Adapter`."""
    (adapter,) = registry.adapters(name)
    assert isinstance(adapter, FrameworkAdapter)
    assert Adapter in FrameworkAdapter.__mro__
    assert adapter.name == name
    assert adapter.requires.partition(">=")[2]
    tops = {module.partition(".")[0] for module in adapter.modules()}
    assert tops == set(adapter.packages)
    assert not adapter.owns(object())


def test_available_adapters_are_those_that_register_takes(install: Install) -> None:
    """Ours first; of another distribution also one that cannot be used, with the reason."""
    install("raise ImportError('half')\n")
    found = list(registry.available())
    *ours, other = found
    assert [(one.name, one.adapter) for one in ours] == [
        (name, registry.adapters(name)[0]) for name in registry.FRAMEWORKS
    ]
    assert all(one.is_ours for one in ours)
    assert (other.name, other.adapter, other.is_ours) == ("toyframe", None, False)
    assert other.problem == ("the adapter 'toyframe' (toyframe_agentcgroup) cannot be loaded: half")


def test_a_name_of_ours_is_never_taken_from_another_distribution(install: Install) -> None:
    """`register("langchain")` means the adapter of this project, and so does `doctor`."""
    install("raise AssertionError('imported')\n", name="langchain")
    assert [one.name for one in registry.available()] == list(registry.FRAMEWORKS)
    assert registry.adapters("langchain")[0].requires.startswith("langchain-core")
