"""The helper process: one thread that waits for the kernel, for the host, and for its end.

Started by `client` as ``python -I -S``, so that neither the host's environment nor its packages
have a say. It forks once more at its start and lives on as nobody's child: a host that waits for
any child of its own must not meet it. It ends when the host does (pidfd, and the end of the socket
pair), and all that it holds in the kernel goes with it.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
from collections import deque
from collections.abc import Sequence
from typing import Any

from agentcgroup.cgroup import Cgroup, Whereabouts
from agentcgroup.monitor import wire
from agentcgroup.monitor.choice import choose
from agentcgroup.monitor.ledger import Home, Ledger
from agentcgroup.monitor.source import Source

__all__ = ["main"]


def main() -> None:
    """Run the helper on the socket whose descriptor is the first argument."""
    host = os.getppid()
    pidfd = os.pidfd_open(host)
    if os.fork():
        os._exit(0)
    os.setsid()
    with socket.socket(fileno=int(sys.argv[1])) as control:
        wire.widen(control)
        start = wire.receive(control)
        if start is None or start["host"] != host:
            return
        source, refused = choose(start["backend"], start["detail"])
        told = {"is": "ready", "source": source and source.name, "refused": refused}
        if wire.send(control, told) and source is not None:
            with contextlib.closing(source):
                Helper(control, source, host).run(pidfd)


class Helper:
    """Keeps the books until the host is gone.

    A cgroup is announced before anything is born in it, but that may be told to us by the kernel
    first. So announcements overtake: whenever a child is seen in a cgroup that is not in the books,
    the host's messages are read up to the last one, and the announcements among them entered.
    """

    def __init__(self, control: socket.socket, source: Source, host: int) -> None:
        control.setblocking(False)
        self._control = control
        self._source = source
        self._ledger = Ledger(host, Whereabouts().of, self._pull)
        self._messages: deque[wire.Message] = deque()
        self._over = False

    def run(self, host: int) -> None:
        """Serve until the process behind the pidfd `host`, or the other end, is gone."""
        poll = select.poll()
        for fd in (host, self._control.fileno(), self._source.fd):
            poll.register(fd, select.POLLIN)
        while not self._over and host not in {fd for fd, _ in poll.poll()}:
            self._pull()
            # After the messages: an answer has to have all that happened before the question.
            for event in self._source.read():
                self._ledger.take(event)
            while self._messages:
                self._serve(self._messages.popleft())

    def _pull(self) -> None:
        """Read what the host has said, and enter the announcements."""
        with contextlib.suppress(BlockingIOError):
            while (message := wire.receive(self._control)) is not None:
                if message["do"] == "add":
                    self._add(message)
                else:
                    self._messages.append(message)
            self._over = True

    def _serve(self, message: wire.Message) -> None:
        if message["do"] == "end":
            wire.send(self._control, self._end(message["id"], message["started"]))
        elif message["do"] == "forget":
            self._close(message["id"], ())

    def _add(self, message: wire.Message) -> None:
        cgroup, path = message["id"], message["path"]
        self._source.add(cgroup)
        present: list[int] = []
        if message["late"]:
            with contextlib.suppress(OSError), contextlib.closing(Cgroup.open(path)) as one:
                present = one.procs()
        self._ledger.add(cgroup, path, present)

    def _end(self, cgroup: int, started: Sequence[int]) -> wire.Message:
        """Say what happened in a cgroup, and close its books."""
        counters = self._source.counters(cgroup)
        home = self._close(cgroup, started)
        told: dict[str, Any] = {"is": "end", "id": cgroup}
        if home is not None and home.whole:
            told |= counters
            told |= {
                "processes_started": home.started,
                "programs": home.programs,
                "programs_left_out": home.left_out,
            }
        if home is not None:
            told["escapes"] = home.escapes
        return told

    def _close(self, cgroup: int, started: Sequence[int]) -> Home | None:
        self._source.remove(cgroup)
        return self._ledger.remove(cgroup, started)


if __name__ == "__main__":
    main()
