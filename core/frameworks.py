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

__all__ = ["ENTRY_POINTS", "FRAMEWORKS", "Adapter", "adapter", "installed"]

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


def installed() -> list[str]:
    """Return the frameworks with an adapter of ours that are installed."""
    return [name for name, module in FRAMEWORKS.items() if importlib.util.find_spec(module)]


def adapter(name: str) -> Adapter:
    """Import an adapter: one of ours, or, for a name that is not, an installed entry point.

    Raises:
        ConfigError: the framework is unknown or not installed, or the adapter cannot be loaded.
    """
    if name not in FRAMEWORKS:
        return _third_party(name)
    if importlib.util.find_spec(FRAMEWORKS[name]) is None:
        raise ConfigError(
            f"{name} is not installed: pip install 'agentcgroup[{name}]'", file="register()"
        )
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
