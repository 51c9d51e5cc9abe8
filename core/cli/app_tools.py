"""The tools of an app, for `agentcgroup doctor --app`."""

from __future__ import annotations

import functools
import importlib
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import typer

from agentcgroup.errors import ConfigError

if TYPE_CHECKING:
    from agentcgroup.frameworks.registry import Adapter

__all__ = ["adapter_of", "load"]


def load(app: str) -> Iterator[tuple[str, Any]]:
    """Yield the tools that ``module:attribute`` names; without attribute those of frameworks.

    Raises:
        ConfigError: there is no such module or attribute, or it raises when it is loaded.
    """
    module_name, _, path = app.partition(":")
    if not module_name or module_name.startswith("."):
        raise ConfigError(f"{app!r} names no module: write it as in myapp.tools:TOOLS", key="--app")
    try:
        sys.path.insert(0, os.getcwd())
        found: Any = importlib.import_module(module_name)
        for name in path.split(".") if path else ():
            found = getattr(found, name)
    except (Exception, SystemExit) as error:  # an exit status of the app would be taken for ours
        raise ConfigError(f"cannot be loaded: {_why(error)}", file=app) from error
    if not path:
        found = {key: one for key, one in vars(found).items() if adapter_of(one) is not None}
    yield from _flat(found)


def _why(error: BaseException) -> str:
    """Return the text of an import's exception, with its type and place where it needs them."""
    if isinstance(error, ImportError | AttributeError | SyntaxError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = [frame for frame in frames if not frame.filename.startswith("<frozen ")][-1]
    return f"{type(error).__name__}: {error} ({place.filename}:{place.lineno})"


def _flat(found: Any) -> Iterator[tuple[str, Any]]:
    """Yield the tools of a collection, or the one tool, with their names."""
    if isinstance(found, Mapping):
        for key, one in found.items():
            yield _name(one, str(key)), one
    elif isinstance(found, list | tuple | set | frozenset):
        for one in found:
            yield _name(one, type(one).__name__), one
    elif callable(found) or adapter_of(found) is not None:
        yield _name(found, type(found).__name__), found


def _name(tool: Any, otherwise: str) -> str:
    name = getattr(tool, "name", None) or getattr(tool, "__name__", None)
    return name if isinstance(name, str) else otherwise


@functools.cache
def _adapters() -> tuple[tuple[str, Adapter], ...]:
    """Return the adapters of this machine by the name of their framework."""
    from agentcgroup.frameworks.registry import available

    usable = []
    for found in available():
        if found.adapter is None:
            typer.echo(f"agentcgroup: {found.problem}", err=True)
        else:
            usable.append((found.name, found.adapter))
    return tuple(usable)


def adapter_of(tool: Any) -> tuple[str, Adapter] | None:
    """Return the adapter of the tool's framework, with the framework's name; None for others.

    An exception of an adapter is printed once to stderr.
    """
    try:
        isinstance(tool, Mapping)
    except Exception:  # a proxy without a target, such as Flask's request
        return None
    for name, adapter in _adapters():
        try:
            if adapter.owns(tool):
                return name, adapter
        except Exception as error:
            _warn_once(name, f"owns() fails: {type(error).__name__}: {error}")
    return None


@functools.cache
def _warn_once(framework: str, problem: str) -> None:
    typer.echo(f"agentcgroup: the adapter {framework!r}: {problem}", err=True)
