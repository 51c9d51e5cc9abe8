"""The observer that appends records to a file as JSON Lines."""

from __future__ import annotations

import json
import logging

from agentcgroup.records.record import CallRecord

__all__ = ["JsonLines"]

logger = logging.getLogger("agentcgroup")


class JsonLines:
    """Appends each record to a file, one line of JSON (ASCII) a record.

    The lines of a batch go to the file in one ``write``, so that processes that append to the same
    file do not mix their lines. After a ``kill -9`` the records of the last
    `records.bus.FLUSH_INTERVAL` (0.05 s) may be missing. On a full disk lines are lost and calls go
    on; the first loss is logged at once, the number of lost lines at the end.
    """

    def __init__(self, path: str) -> None:
        """Open `path` for appending.

        Raises:
            OSError: `path` cannot be opened or made.
        """
        self.name = f"JSON Lines ({path})"
        self._path = path
        # Without a buffer: the buffer's lock would be held for ever in a child forked meanwhile.
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - lives as long as the session
        self._lines: list[bytes] = []
        self._rest = b""  # the unwritten end of a line that a full disk has cut
        self._lost = 0
        self._warned = False

    def on_record(self, record: CallRecord) -> None:
        """Collect the line of one record until the next `flush`."""
        self._lines.append(json.dumps(record.to_dict()).encode("ascii") + b"\n")

    def flush(self) -> None:
        """Write the collected lines; lines that the file does not take are lost."""
        lines, self._lines = [self._rest, *self._lines], []
        self._rest = b""
        data = b"".join(lines)
        written = 0
        try:
            while written < len(data):
                written += self._file.write(data[written:])
        except OSError as error:
            self._note_lost(lines, written, error)

    def close(self) -> None:
        """Close the file; log how many lines are lost."""
        self._file.close()
        lost = self._lost + bool(self._rest)
        if lost:
            logger.warning("agentcgroup: %d records are missing in %s", lost, self._path)

    def after_fork(self) -> None:
        """Drop the collected lines, which the parent writes."""
        self._lines, self._rest = [], b""

    def _note_lost(self, lines: list[bytes], written: int, error: OSError) -> None:
        """Keep the end of a line that was cut, so that later lines do not run into it."""
        if not self._warned:
            self._warned = True
            logger.warning("agentcgroup: cannot write records to %s: %s", self._path, error)
        for number, line in enumerate(lines):
            if written < len(line):
                cut = number == 0 or written > 0
                self._rest = line[written:] if cut else b""
                self._lost += len(lines) - number - cut
                return
            written -= len(line)
