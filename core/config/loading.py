"""Loading a configuration: from a path, a dict, or the file that `discovery.find` finds.

Without any, the built-in defaults hold (see `tables`). Defaults hold key by key: a file that sets
``limits.call.memory_max`` keeps the default timeout.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

from agentcgroup.config import toml, trust
from agentcgroup.config.discovery import (
    ENVIRONMENT_VARIABLE,
    FILE,
    PYPROJECT,
    PYPROJECT_TABLE,
    find,
    pyproject_table,
)
from agentcgroup.config.problems import validate
from agentcgroup.config.tables import Config
from agentcgroup.config.toml import KeyPath, Source
from agentcgroup.errors import ConfigError

__all__ = ["Config", "load"]


def load(config: Config | Mapping[str, Any] | str | os.PathLike[str] | None = None) -> Config:
    """Load a configuration.

    Args:
        config: a path, a dict in the shape of the file, or a `Config`, which is returned as it
            is; None finds a file.

    Raises:
        ConfigError: the file cannot be read, or has faults; the error lists every fault with
            file, line and key. Or it was found and another user may write it, see `trust`.
    """
    if isinstance(config, Config):
        return config
    if isinstance(config, Mapping):
        return _build(config, Source("config="), folder="")
    path = find() if config is None else os.path.expanduser(os.fspath(config))
    if path is None:
        return Config()
    named = config is not None or bool(os.environ.get(ENVIRONMENT_VARIABLE))
    loaded = _read(path, None if named else functools.partial(trust.check_owner, path))
    if not named and path in (FILE, PYPROJECT):
        trust.warn_if_loose(path, loaded)
    return loaded


def _read(path: str, check: Callable[[os.stat_result], None] | None) -> Config:
    document = toml.read(path, check)
    prefix: KeyPath = ()
    data: Any = document.data
    if os.path.basename(path) == PYPROJECT:
        prefix = PYPROJECT_TABLE
        data = pyproject_table(document.data)
        if data is None:
            raise ConfigError("has no table [tool.agentcgroup]", file=path)
    return _build(data, Source(path, document, prefix), folder=os.path.dirname(path))


def _build(data: Any, source: Source, folder: str) -> Config:
    if not isinstance(data, Mapping):
        key = ".".join(map(str, source.prefix))
        raise ConfigError("is not a table", file=source.name, line=source.line(()), key=key)
    config = validate(Config, data, source, folder=folder)
    config._source = source
    return config
