"""Replace an object in every module that holds it as a global."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

__all__ = ["replace_globals"]


def replace_globals(pairs: Iterable[tuple[Any, Any]]) -> None:
    """Replace every module global that *is* the first object of a pair by the second.

    `from os import fork` binds another name to the same builtin, which a replacement of `os.fork`
    alone would miss. The globals of this package stay as they are.
    """
    new_of = {id(old): new for old, new in pairs}
    ids = frozenset(new_of)
    for name, module in list(sys.modules.items()):
        if name.startswith(__package__):
            continue
        names = getattr(module, "__dict__", None)
        # In C: a program has tens of thousands of globals, and few of them are to be replaced.
        if not isinstance(names, dict) or ids.isdisjoint(map(id, tuple(names.values()))):
            continue
        for key, value in list(names.items()):
            new = new_of.get(id(value))
            if new is not None:
                names[key] = new
