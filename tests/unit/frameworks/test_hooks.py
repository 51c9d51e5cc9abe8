"""Wrapping methods of a module: in the class that defines them, once, or with a warning."""

from __future__ import annotations

import functools
import importlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import wrapt

from agentcgroup.frameworks import hooks


def _loud(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def loud(*args: Any) -> Any:
        return f"{original(*args)}!"

    return loud


@pytest.fixture
def framework(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write a framework of one module that can be imported; return its name."""
    name = f"framework_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(
        "class Base:\n"
        "    def run(self): return 'ran'\n"
        "    @staticmethod\n"
        "    def static(): return 'ran'\n"
        "class Tool(Base): pass\n"
        "def function(): return 'ran'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def test_a_method_is_wrapped_where_it_is_defined_and_once(framework: str) -> None:
    """An inherited method is wrapped in its class, and once, whichever class is named."""
    module = importlib.import_module(framework)
    for path in ("Tool.run", "Base.run", "Tool.run", "function"):
        hooks.wrap(framework, path, _loud, "lost")
    assert "run" not in vars(module.Tool)
    assert module.Tool().run() == module.Base().run() == module.function() == "ran!"


def test_a_static_method_stays_one(framework: str) -> None:
    """The wrapper takes no self, whether it is called on the class or on an instance."""
    module = importlib.import_module(framework)
    hooks.wrap(framework, "Tool.static", _loud, "lost")
    assert module.Tool().static() == module.Base.static() == "ran!"


@pytest.mark.parametrize("path", ["Base.gone", "Gone.run", "gone"])
def test_a_missing_seam_is_a_warning(
    framework: str, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    """The warning names the missing method and what is lost with it."""
    importlib.import_module(framework)
    hooks.wrap(framework, path, _loud, "calls are NOT contained")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert path in record.getMessage()
    assert "calls are NOT contained" in record.getMessage()


def test_hooks_wait_for_the_import(framework: str) -> None:
    """`when_imported` imports nothing; a second one before the import adds nothing."""
    seen: list[str] = []
    hook = seen.append
    hooks.when_imported([framework], hook, "failed")
    hooks.when_imported([framework], hook, "failed")
    assert framework not in sys.modules
    importlib.import_module(framework)
    assert seen == [framework]


def test_what_another_has_taken_away_is_put_back(framework: str) -> None:
    """Another library restores the methods that it had found; `when_imported` wraps them again."""

    def hook(name: str) -> None:
        for path in ("Tool.run", "Tool.static"):
            hooks.wrap(name, path, _loud, "lost")

    module = importlib.import_module(framework)
    found = dict(vars(module.Base))
    for _ in range(2):
        for name in ("run", "static"):
            setattr(module.Base, name, found[name])
        for _ in range(2):
            hooks.when_imported([framework], hook, "failed")
            assert module.Tool().run() == module.Tool().static() == "ran!"


def test_wrappers_of_others_are_called_as_methods(framework: str) -> None:
    """A descriptor of wrapt's below ours gets the instance; below another's ours is there once."""
    module = importlib.import_module(framework)
    instances = []

    def note(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        instances.append(instance)
        return wrapped(*args, **kwargs)

    wrapt.wrap_function_wrapper(module, "Base.run", note)
    hooks.wrap(framework, "Tool.run", _loud, "lost")
    wrapt.wrap_function_wrapper(module, "Base.run", note)
    hooks.wrap(framework, "Tool.run", _loud, "lost")
    tool = module.Tool()
    assert tool.run() == "ran!"
    assert instances == [tool, tool]


def test_a_fault_of_ours_does_not_fail_the_import(
    framework: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The exception is logged with the text of what is lost."""

    def hook(name: str) -> None:
        raise RuntimeError("a bug")

    hooks.when_imported([framework], hook, "tools are NOT contained")
    assert importlib.import_module(framework).function() == "ran"
    assert "tools are NOT contained" in caplog.text
