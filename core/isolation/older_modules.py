"""Which modules the fork server may import: those whose files are older than the run.

The code of a tool is to run in its call, with the call's limits. The fork server is outside of
every call, and later workers of all tools inherit what it imports. A tool can write a module into a
folder of ``sys.path``, before the one of that name, and its worker can report any name. So the app
checks each name by its own view of the files, and the fork server checks each file that an import
reads, those of dependencies and of ``__pycache__`` included.

The time that counts is the ctime, which no call of the kernel sets to a given value.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Iterable, Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import ModuleType
from typing import Any, Final

__all__ = ["OlderModules", "among"]

#: Characters of a module's name; no known package comes near.
_NAME_MAX: Final = 200


def among(names: Iterable[str], since: float) -> list[str]:
    """Return those of `names`, which a worker has reported, that may be imported; in the app.

    Nothing is imported.

    Args:
        names: any strings.
        since: when the run began, seconds of Unix time.
    """
    return [name for name in names if _is_name(name) and _found_older(name, since)]


def _is_name(name: str) -> bool:
    return len(name) <= _NAME_MAX and all(part.isidentifier() for part in name.split("."))


def _found_older(name: str, since: float) -> bool:
    try:
        spec = _spec(name)
        return spec is not None and _is_older(spec, since)
    except Exception:  # of a finder, or of what a module has put in sys.modules
        return False


def _spec(name: str) -> ModuleSpec | None:
    """Return the spec of a module; `importlib.util.find_spec` would import the packages above."""
    module = sys.modules.get(name)
    if module is not None:
        spec: ModuleSpec | None = module.__spec__
        return spec
    above, _, _ = name.rpartition(".")
    return _find(name, _locations(above) if above else None)


def _locations(package: str) -> list[str]:
    spec = _spec(package)
    found = None if spec is None else spec.submodule_search_locations
    if found is None:
        raise ModuleNotFoundError(package)
    try:
        return list(found)
    except KeyError:  # a namespace package looks for the one above it in sys.modules
        return list(getattr(found, "_path", ()))


def _find(
    name: str,
    path: Sequence[str] | None,
    target: ModuleType | None = None,
    but: object = None,
) -> ModuleSpec | None:
    """Ask the finders of this process, except one."""
    for finder in tuple(sys.meta_path):
        find: Any = getattr(finder, "find_spec", None)
        if finder is not but and find is not None:
            spec: ModuleSpec | None = find(name, path, target)
            if spec is not None:
                return spec
    return None


def _is_older(spec: ModuleSpec, since: float) -> bool:
    """Return whether the module's file is older; a module without one is part of Python."""
    if not spec.has_location:
        # Built in, frozen, or a namespace package, whose modules are looked at one by one.
        return spec.loader is None or spec.origin in ("built-in", "frozen", None)
    try:
        changed = os.stat(spec.origin or "")
    except NotADirectoryError:  # in an archive
        changed = os.stat(getattr(spec.loader, "archive", ""))
    return changed.st_ctime < since


class _OlderSource(SourceFileLoader):
    """Loads a module from its source or its cached bytecode, whichever is older than the run."""

    def __init__(self, name: str, path: str, since: float) -> None:
        super().__init__(name, path)
        self._since = since

    def get_data(self, path: str) -> bytes:
        """Return the content of a file.

        Raises:
            OSError: it is newer; for bytecode Python then reads the source.
        """
        with io.open_code(str(path)) as file:
            data: bytes = file.read()
            # After it was read: it may be written meanwhile.
            if os.fstat(file.fileno()).st_ctime >= self._since:
                raise OSError(f"{path} is newer than the run")
        return data


class OlderModules:
    """A finder that lets this process import no module whose file is newer than the run."""

    def __init__(self, since: float) -> None:
        """Look at nothing yet; see `install`."""
        self._since = since

    def install(self) -> None:
        """Have every later import ask this finder first; again after others were put before it."""
        sys.meta_path[:] = [self, *(finder for finder in sys.meta_path if finder is not self)]
        importlib.invalidate_caches()

    def remove(self) -> None:
        """Undo `install`, in a worker: the call's own code may be of any age."""
        sys.meta_path.remove(self)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find what the other finders find.

        Raises:
            ImportError: its file is newer.
        """
        spec = _find(name, path, target, but=self)
        if spec is None:
            return None
        if not _is_older(spec, self._since):
            raise ImportError(f"{spec.origin} is newer than the run", name=name, path=spec.origin)
        if type(spec.loader) is SourceFileLoader:
            spec.loader = _OlderSource(name, spec.loader.path, self._since)
        return spec
