"""Put one object in the place of another in every module that holds it as a global."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

__all__ = ["replace"]


def replace(pairs: Iterable[tuple[Any, Any]]) -> None:
    """Replace every module global that *is* the first of a pair by the second.

    `from os import fork` binds another name to the same builtin, so that replacing `os.fork`
    alone would miss it. This package's own references stay as they are.
    """
    new_of = {id(old): new for old, new in pairs}
    ids = frozenset(new_of)
    for name, module in list(sys.modules.items()):
        if name.startswith(__package__):
            continue
        names = getattr(module, "__dict__", None)
        # In C, since programs have tens of thousands of globals and few of them are ours.
        if not isinstance(names, dict) or ids.isdisjoint(map(id, tuple(names.values()))):
            continue
        for key, value in list(names.items()):
            new = new_of.get(id(value))
            if new is not None:
                names[key] = new
