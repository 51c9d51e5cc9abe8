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
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from agentcgroup.cgroup import Cgroup
from agentcgroup.monitor import wire
from agentcgroup.monitor.choice import choose
from agentcgroup.monitor.escape_return import EscapeReturn, let_go
from agentcgroup.monitor.ledger import CallEntry, Ledger
from agentcgroup.monitor.source import Raw, Source
from agentcgroup.monitor.thread_board import View
from agentcgroup.place.locate import CgroupLocator

__all__ = ["main"]

#: Seconds between two looks at where the members are, while there are any.
_SWEEP: Final = 0.1
#: Members of one call that are looked at in one sweep.
_LOOKS: Final = 1000
#: Seconds that a child may take to move itself, which waits for a grace period of the kernel.
_JOINING: Final = 1.0
#: Events in one message.
_NEWS: Final = 100


def main() -> None:
    """Run the helper; the arguments are the descriptors of its socket and of the board."""
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
        try:
            _serve(control, View(int(sys.argv[2])), start, pidfd)
        except Exception as error:
            wire.send(control, {"is": "failed", "why": repr(error)})
            raise


def _serve(control: socket.socket, board: View, start: wire.Message, host: int) -> None:
    source, refused = choose(start["backend"], start["detail"], stop=not start["joins"])
    told: dict[str, Any] = {"is": "ready", "source": source and source.name, "refused": refused}
    if source is None:
        wire.send(control, told)
        return
    with contextlib.closing(source):
        slots, fds = source.lent()
        told |= {"slots": [*slots], "missing": [*source.missing]}
        if wire.send(control, told, fds):
            Helper(control, source, board, start).run(host)


class Helper:
    """Keeps the books until the host is gone.

    A cgroup is announced before anything is born in it, but that may be told to us by the kernel
    first. So announcements overtake: whenever a child is seen in a cgroup that is not in the books,
    the host's messages are read up to the last one, and the announcements among them entered.
    """

    def __init__(
        self, control: socket.socket, source: Source, board: View, start: wire.Message
    ) -> None:
        """Serve the host at the other end of `control`, as its first message says."""
        control.setblocking(False)
        self._control = control
        self._source = source
        self._host = start["host"]
        self._joins = bool(start["joins"])
        self._ledger = Ledger(start["host"], start["run"], CgroupLocator().of_newborn)
        self._ledger.on_unknown = self._pull
        self._ledger.on_outside = self._outside
        self._net = EscapeReturn(self._ledger, board)
        self._messages: deque[wire.Message] = deque()
        self._over = False
        self._listening = False
        self._lost = False
        self._news: list[tuple[Any, ...]] = []
        self._swept = 0.0

    def run(self, host: int) -> None:
        """Serve until the process behind the pidfd `host`, or the other end, is gone."""
        poll = select.poll()
        for fd in (host, self._control.fileno(), self._source.fd):
            poll.register(fd, select.POLLIN)
        while not self._over:
            if host in {fd for fd, _ in poll.poll(self._pause())}:
                return
            self._pull()
            # An answer has all that happened before the question: what is asked yet has to wait.
            asked = len(self._messages)
            events = self._source.read()
            self._pull()  # where it has happened was announced before
            for event in events:
                self._enter(event)
            self._report()
            for _ in range(asked):
                self._serve(self._messages.popleft())
            self._sweep()

    def _pause(self) -> float | None:
        """Return for how many ms there is nothing to look for by ourselves, None for ever."""
        if self._messages:
            return 0
        # A listener waits for the first process of a call, too, of which nothing wakes us.
        waiting = self._listening and self._ledger.homes
        if waiting or (self._source.sweeps and self._ledger.members):
            return _SWEEP * 1000
        return None

    def _enter(self, event: Raw) -> None:
        if event.kind == "outside":
            self._enter_outside(event)
            return
        if event.kind == "lost":
            self._tell_lost()
        home = self._ledger.take(event)
        if home is not None:
            self._note(event, home)
        # No event tells where the child of one that was outside is.
        suspect = event.kind == "fork" and home is not None and home.escapes
        if home is not None and (suspect or event.kind == "moved"):
            self._check(home, event.pid)

    def _note(self, event: Raw, home: CallEntry) -> None:
        """Keep what a listener may want to hear; that somebody has left is told by `_check`."""
        if self._listening and event.kind != "moved":
            born_outside = event.kind == "fork" and event.pid in home.born_outside
            kind = "escape" if born_outside or event.kind == "outside" else event.kind
            program = home.program(event.pid) if kind == "exec" else None
            self._news.append(
                (kind, event.time, home.id, event.pid, event.parent, program, event.status)
            )

    def _report(self) -> None:
        while self._news:
            told, self._news = self._news[:_NEWS], self._news[_NEWS:]
            wire.send(self._control, {"is": "events", "events": told})

    def _enter_outside(self, event: Raw) -> None:
        if self._ledger.in_run(self._ledger.where(event.pid) or ""):
            # It was put there, before that was announced, or has moved itself.
            self._enter(event._replace(kind="fork", home=None, cgroup=None))
            let_go(event)
            home = self._ledger.of(event.pid)
            if home is not None and home.id == event.cgroup:
                home.counted = False  # born there, but the source has taken it for another's
            return
        home = self._ledger.kin(event)
        if home is not None:
            self._net.born_of_member(home, event)
        else:
            home = self._outside(event)
        if home is not None:
            self._ledger.adopt(home, event.pid, event.parent)
            self._note(event._replace(kind="fork"), home)

    def _pull(self) -> None:
        """Read what the host has said, and enter the announcements."""
        with contextlib.suppress(BlockingIOError):
            while (message := wire.receive(self._control)) is not None:
                match message["do"]:
                    case "add":
                        self._add(message)
                    case "listen":
                        self._listening = message["on"]
                    case _:
                        self._messages.append(message)
            self._over = True

    def _serve(self, message: wire.Message) -> None:
        match message["do"]:
            case "end":
                wire.send(self._control, self._end(message["id"], message["started"]))
            case "release":
                home = self._ledger.get(message["id"])
                if home is not None:
                    home.released = True
            case "harbour":
                self._net.harbour = message["path"]
                self._source.enroll(os.path.dirname(message["path"]))
            case "fetch":
                self._net.fetch(message["pid"], message["id"])
            case "drop":
                self._net.drop(message["pid"])

    def _add(self, message: wire.Message) -> None:
        cgroup, path = message["id"], message["path"]
        self._source.add(cgroup, message["slot"])
        present: list[int] = []
        if message["late"]:
            with contextlib.suppress(OSError), contextlib.closing(Cgroup.open(path)) as one:
                present = one.procs()
        self._ledger.add(cgroup, path, present)

    def _outside(self, event: Raw) -> CallEntry | None:
        if self._joins:
            path = self._joined(event.pid)
            if path is None:  # it is gone: the host knows whose it was
                return self._ledger.stray(event.pid)
            if self._ledger.in_run(path):
                self._pull()
                return self._ledger.at(path)
        found = self._net.born_outside(event)
        if found is None:
            return None
        home, number = found
        if number:
            wire.send(self._control, {"is": "outside", "pid": event.pid, "call": number})
        return home

    def _joined(self, pid: int) -> str | None:
        """Return where a child is that moves itself before it executes; gives it time for that."""
        deadline = time.monotonic() + _JOINING
        while True:
            overdue = time.monotonic() > deadline or not self._is_copy(pid)
            path = self._ledger.where(pid)  # after that: what has executed by then has moved before
            if path is None or self._ledger.in_run(path) or overdue:
                return path
            time.sleep(0.001)

    def _is_copy(self, pid: int) -> bool:
        """Say whether a child still runs what the host does."""
        try:
            return os.path.samefile(f"/proc/{pid}/exe", f"/proc/{self._host}/exe")
        except OSError:
            return False

    def _sweep(self) -> None:
        """Look from time to time whether somebody has left: no event says so."""
        now = time.monotonic()
        if self._source.sweeps and now - self._swept >= _SWEEP:
            self._swept = now
            for home in self._ledger:
                self._look_after(home)

    def _look_after(self, home: CallEntry) -> None:
        for pid in [*home.members][:_LOOKS]:
            self._check(home, pid)

    def _check(self, home: CallEntry, pid: int) -> None:
        if self._net.check(home, pid):
            self._note(Raw("outside", time.monotonic(), pid), home)
            wire.send(self._control, {"is": "left", "pid": pid, "id": home.id})

    def _tell_lost(self) -> None:
        """Tell the host, once, that books have gaps."""
        if not self._lost:
            self._lost = True
            wire.send(self._control, {"is": "lost"})

    def _end(self, cgroup: int, started: Sequence[int]) -> wire.Message:
        """Say what happened in a cgroup, and close its books."""
        there = self._ledger.get(cgroup)
        if there is not None:
            self._look_after(there)  # what is brought back now dies with the cgroup
        living = there is not None and bool(there.members)
        counters = self._source.counters(cgroup, living=living)
        self._source.remove(cgroup)
        if there is not None and counters.get("events_lost"):
            there.whole = False
            self._tell_lost()
        home = self._ledger.remove(cgroup, started, counters)
        told: dict[str, Any] = {"is": "end", "id": cgroup}
        if home is None:
            return told
        if home.whole:
            told |= {
                "processes_started": home.started,
                "programs": home.programs,
                "programs_left_out": home.left_out,
            }
            told["counters"] = home.counters if home.counted else {}
        told["escapes"] = home.escapes
        return told


if __name__ == "__main__":
    main()
