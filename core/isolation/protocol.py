"""The kinds of messages between the app, the fork server and the workers.

Only constants: the app imports them without the code of the fork server or of a worker.
"""

from __future__ import annotations

import struct
from typing import Final

__all__ = [
    "BORN",
    "CALL",
    "ENDED",
    "ENVIRONMENT",
    "FAILURE",
    "IMPORTED",
    "IMPORTING",
    "LAST_CALL",
    "LEARNED",
    "LOG",
    "PRELOAD",
    "REFUSED",
    "REPORT",
    "RESULT",
    "SETTLED",
    "SPAWN",
    "STDERR",
    "STDOUT",
    "UNSHIPPABLE",
]

# From the app to the fork server: fork a worker (with its number, its folder, its end of the
# channel and the directory of a cgroup), import modules.
SPAWN: Final = b"S"
PRELOAD: Final = b"P"

#: A report of the fork server: what has happened, the worker's number, and its pid, its wait status
#: or the errno of the fork; or that all requests to import modules are carried out, and how many.
REPORT: Final = struct.Struct("<cqq")
BORN: Final = b"b"
ENDED: Final = b"e"
REFUSED: Final = b"r"
SETTLED: Final = b"s"

# From the app to a worker: changes of the environment; a call; a call after which it ends.
ENVIRONMENT: Final = b"B"
CALL: Final = b"c"
LAST_CALL: Final = b"C"

# From a worker to the app, the end of a call: a result, an exception, what cannot be pickled.
RESULT: Final = b"R"
FAILURE: Final = b"E"
UNSHIPPABLE: Final = b"U"

# From a worker to the app, before the tool's code: it begins to import modules; it has them.
IMPORTING: Final = b"I"
IMPORTED: Final = b"i"

# From a worker to the app, at any time: text for stdout, text for stderr, a log record; names of
# the modules that the body has imported.
STDOUT: Final = b"O"
STDERR: Final = b"o"
LOG: Final = b"L"
LEARNED: Final = b"M"
