"""Which frameworks `register` takes, and adapters that other distributions bring."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import agentcgroup
import pytest
from agentcgroup import ConfigError, Session

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
    sys.modules.pop("toyframe_agentcgroup", None)
    agentcgroup.unregister()


def test_a_third_partys_adapter_is_found_by_its_entry_point(install: Install) -> None:
    """Its calls are as ours: opened in a session, recorded under the framework's name."""
    install(
        "from agentcgroup import execution\n"
        "from agentcgroup.session import active\n"
        "installed = 0\n"
        "def install():\n"
        "    global installed\n"
        "    installed += 1\n"
        "def use(tool, *arguments):\n"
        "    call = active().start('toyframe', 'toy', tool.__name__)\n"
        "    return execution.run(call, lambda record, result, error: result, tool, *arguments)\n"
    )
    session = agentcgroup.register("toyframe")
    import toyframe_agentcgroup as adapter  # type: ignore[import-not-found]  # made above

    assert isinstance(session, Session)
    assert adapter.installed == 1
    assert adapter.use(abs, -1) == 1
    (record,) = session.records
    assert (record.framework, record.agent, record.tool) == ("toyframe", "toy", "abs")


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
