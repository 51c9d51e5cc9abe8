"""The part of `agentcgroup doctor` that tests the adapters of frameworks."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import logging
import re
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from agentcgroup.cli.finding import Finding

if TYPE_CHECKING:
    from agentcgroup.frameworks.registry import Adapter, Found

__all__ = ["findings"]

#: A requirement as `Adapter.requires` has it.
_REQUIREMENT: Final = re.compile(r"([A-Za-z0-9._-]+)(?:>=([0-9.]+))?")


def findings() -> Iterator[Finding]:
    """Yield a finding for each framework that `register` can hook on this machine."""
    from agentcgroup.frameworks.registry import available

    with _aside():
        found = list(available())
    for one in found:
        yield _framework(one)


def _framework(found: Found) -> Finding:
    """Test an adapter: the framework's version, and whether each seam is there.

    A fault of an adapter that another distribution brings is a finding, and no traceback.
    """
    if found.adapter is None:
        fix = "upgrade the distribution that declares the adapter, or remove it."
        return Finding(found.name, "no", f"{found.problem}.", fix)
    try:
        return _tried(found, found.adapter)
    except Exception as error:
        if found.is_ours:
            raise
        reason = f"the adapter fails: {type(error).__name__}: {error}"
        return Finding(found.name, "no", reason, "upgrade its distribution, or remove it.")


def _tried(found: Found, adapter: Adapter) -> Finding:
    name = found.name
    requirement = _REQUIREMENT.fullmatch(adapter.requires)
    if requirement is None:
        return Finding(name, "no", f"requires = {adapter.requires!r}: not as in 'toyframe>=1.2'.")
    distribution, needed = requirement[1], requirement[2] or ""
    wanted = f"agentcgroup[{name}]" if found.is_ours else adapter.requires
    fix = f"pip install --upgrade '{wanted}'"
    need = f"need {needed or distribution}."
    try:
        version = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        detail = f"found no {distribution}, {need}"
        # An adapter of another distribution may be there for a framework that is not.
        return Finding(name, "no", detail, fix, enforces=found.is_ours)
    if _numbers(version) < _numbers(needed):
        return Finding(name, "no", f"found {distribution} {version}, {need}", fix)
    missing = _missing_seams(adapter)
    if missing:
        return Finding(name, "partly", f"{distribution} {version}: {' '.join(missing)}", fix)
    return Finding(name, "yes", f"{distribution} {version}")


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)[:3]]


def _missing_seams(adapter: Adapter) -> list[str]:
    """Hook a framework; return the warnings that its adapter logs meanwhile."""
    warnings = _Warnings()
    logger = logging.getLogger("agentcgroup")
    logger.addHandler(warnings)
    try:
        with _aside():
            adapter.install()
            modules = adapter.modules()
        refused = _import_all(modules)
        if len(refused) == len(modules):
            why = "; ".join(dict.fromkeys(refused.values()))
            warnings.texts.append(f"{', '.join(refused)} cannot be imported ({why}).")
    finally:
        logger.removeHandler(warnings)
    return warnings.texts


class _Warnings(logging.Handler):
    """Collects warnings for the report."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Add the message as a sentence."""
        self.texts.append(f"{record.getMessage().removeprefix('agentcgroup: ')}.")


def _import_all(modules: Iterable[str]) -> dict[str, str]:
    """Import the modules; return those that cannot be imported, with the reason.

    Some belong to other versions of the framework, or to its extras.
    """
    refused = {}
    for module in modules:
        try:
            with _aside():
                importlib.import_module(module)
        except Exception as error:  # a framework's own
            refused[module] = f"{type(error).__name__}: {error}"
    return refused


def _aside() -> contextlib.AbstractContextManager[object]:
    """Redirect to stderr what code of others prints: it is no part of the report."""
    return contextlib.redirect_stdout(sys.stderr)
