"""The adapters of this machine: those of this project, and those of other distributions.

Nothing here imports a framework. An adapter hooks its framework when the program imports it.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from agentcgroup.errors import ConfigError
from agentcgroup.isolation.bodies import Body

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["ENTRY_POINTS", "FRAMEWORKS", "Adapter", "Found", "adapters", "available"]

#: Each framework with an adapter in this project, and the top-level module that is there when the
#: framework is installed.
FRAMEWORKS: Final[Mapping[str, str]] = {
    "autogen": "autogen_agentchat",
    "crewai": "crewai",
    "langchain": "langchain_core",
}

#: The group of entry points in which other distributions declare adapters: framework name to
#: ``module:adapter``, or to a module that has the members of `Adapter` itself.
ENTRY_POINTS: Final = "agentcgroup.adapters"


class Adapter(Protocol):
    """All that this package uses of an adapter; `seam.FrameworkAdapter` implements it.

    Attributes:
        name: the framework's name in `register`, in rules and in records.
        requires: the distribution of the framework, such as ``langchain-core>=0.3``; ">=" and the
            oldest version that the adapter was tried with may be left out.
    """

    name: str
    requires: str

    def install(self) -> None:
        """Hook the framework once it is imported, or now if it is; never import it. Idempotent."""

    def modules(self) -> Sequence[str]:
        """Return the framework's modules that are hooked; `doctor` imports them to test it."""

    def owns(self, tool: Any) -> bool:
        """Return whether `tool` is a tool object of this framework."""

    def bodies(self, tool: Any) -> Mapping[str, Body]:
        """Return the bodies of a tool of this framework, by the names of their attributes."""


#: The members of `Adapter`; of a name that ends with "()" the value is callable.
_MEMBERS: Final = ("install()", "modules()", "owns()", "bodies()", "name", "requires")


@dataclass(frozen=True, slots=True)
class Found:
    """An adapter of this machine.

    Attributes:
        name: the framework's name.
        adapter: None where the adapter cannot be used.
        problem: why it cannot be used.
        is_ours: whether it is part of this project.
    """

    name: str
    adapter: Adapter | None
    problem: str = ""
    is_ours: bool = False


def adapters(*names: str) -> list[Adapter]:
    """Import the adapters of the named frameworks, of this project or declared by entry points.

    Without names: the adapters of this project whose framework is installed.

    Raises:
        ConfigError: a framework is unknown or not installed, or its adapter cannot be used.
    """
    if not names:
        return [_ours(name) for name in FRAMEWORKS if _is_installed(name)]
    return [_named(name) for name in names]


def available() -> Iterator[Found]:
    """Import each adapter that `register` would take, usable or not.

    First the adapters of this project whose framework is installed, then those of entry points.
    """
    for name in FRAMEWORKS:
        if _is_installed(name):
            yield Found(name, _ours(name), is_ours=True)
    from importlib.metadata import entry_points

    seen = set(FRAMEWORKS)
    for point in entry_points(group=ENTRY_POINTS):
        if point.name not in seen:  # `register` takes the first of a name
            seen.add(point.name)
            adapter, problem = _load(point)
            yield Found(point.name, adapter, problem)


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
    module = f"agentcgroup.adapters.{name}"
    try:
        return cast(Adapter, importlib.import_module(module).adapter)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ConfigError(
            f"the adapter {module} is missing from this program, which was frozen without it:"
            " freeze it with --collect-all agentcgroup (PyInstaller) or"
            " --include-package=agentcgroup (Nuitka)",
            file="register()",
        ) from error


def _third_party(name: str) -> Adapter:
    """Load an adapter that another distribution declares.

    Called only for a name that is not in `FRAMEWORKS`: reading the entry points of all
    distributions takes milliseconds. Of two distributions that declare one name the first on
    ``sys.path`` is taken, as an import would.
    """
    from importlib.metadata import entry_points  # the import alone takes milliseconds, too

    declared = entry_points(group=ENTRY_POINTS)
    point = next(iter(declared.select(name=name)), None)
    if point is None:
        known = sorted({*FRAMEWORKS, *declared.names})
        near = get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(
            f"unknown framework {name!r}{hint} (known: {', '.join(known)})", file="register()"
        )
    adapter, problem = _load(point)
    if adapter is None:
        raise ConfigError(problem, file="register()")
    return adapter


def _load(point: EntryPoint) -> tuple[Adapter | None, str]:
    """Return the adapter that an entry point names; or None, and why it cannot be used."""
    label = f"the adapter {point.name!r} ({point.value})"
    try:
        found = point.load()
        missing = [member for member in _MEMBERS if not _has(found, member)]
    except (Exception, SystemExit) as error:  # code of another distribution
        why = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
        return None, f"{label} cannot be loaded: {why}"
    if missing:
        return None, f"{label} has no {', '.join(missing)}"
    return cast(Adapter, found), ""


def _has(found: Any, member: str) -> bool:
    name = member.removesuffix("()")
    value = getattr(found, name, None)
    return callable(value) if name != member else isinstance(value, str)
