"""The frameworks that can be hooked: ours, and those that other distributions bring an adapter for.

None is imported here, only the adapter, which hooks the framework once the user imports it.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Final, Protocol, cast

from agentcgroup.errors import ConfigError

__all__ = ["ENTRY_POINTS", "FRAMEWORKS", "Adapter", "adapters"]

#: Framework to the top-level module whose presence says that it is installed.
FRAMEWORKS: Final[Mapping[str, str]] = {
    "autogen": "autogen_agentchat",
    "crewai": "crewai",
    "langchain": "langchain_core",
}

#: The group of entry points in which others declare adapters: framework name to module.
ENTRY_POINTS: Final = "agentcgroup.adapters"


class Adapter(Protocol):
    """What a package below `agentcgroup.adapters`, or one of an entry point, gives."""

    def install(self) -> None:
        """Hook the framework's seams once it is imported; never imports it. Idempotent."""


def adapters(*names: str) -> list[Adapter]:
    """Import the adapters of these frameworks: of ours, or, for other names, of entry points.

    Without a name all of ours whose framework is installed.

    Raises:
        ConfigError: a framework is unknown or not installed, or its adapter cannot be loaded.
    """
    if not names:
        return [_ours(name) for name in FRAMEWORKS if _is_installed(name)]
    return [_named(name) for name in names]


def _named(name: str) -> Adapter:
    if name not in FRAMEWORKS:
        return _third_party(name)
    if not _is_installed(name):
        raise ConfigError(
            f"{name} is not installed: pip install 'agentcgroup[{name}]'", file="register()"
        )
    return _ours(name)


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(FRAMEWORKS[name]) is not None


def _ours(name: str) -> Adapter:
    return cast(Adapter, importlib.import_module(f"agentcgroup.adapters.{name}"))


def _third_party(name: str) -> Adapter:
    """Load an adapter that another distribution declares.

    Only a name that is not ours gets here: to look through all distributions takes milliseconds.
    Of two that declare one name the first on ``sys.path`` is taken, as an import would.
    """
    from importlib.metadata import entry_points  # the import alone takes as long

    declared = entry_points(group=ENTRY_POINTS)
    point = next(iter(declared.select(name=name)), None)
    if point is None:
        known = sorted({*FRAMEWORKS, *declared.names})
        near = get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(
            f"unknown framework {name!r}{hint} (known: {', '.join(known)})", file="register()"
        )
    try:
        found = point.load()
    except Exception as error:
        raise ConfigError(
            f"the adapter {name!r} ({point.value}) cannot be loaded: {error}", file="register()"
        ) from error
    if not callable(getattr(found, "install", None)):
        raise ConfigError(
            f"the adapter {name!r} ({point.value}) has no install()", file="register()"
        )
    return cast(Adapter, found)
