"""The helper process: one thread that waits for the kernel, for the app, and for the app's end.

`launch` starts it as ``python -I -S``, so that the app's environment and packages have no effect.
The helper forks once at its start and goes on as a child of init, since an app that waits for any
child of its own must not find the helper. It ends with the app (pidfd, and the end of the socket
pair); the kernel then closes its descriptors and so detaches the BPF programs.
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
from agentcgroup.monitor.call_entry import CallEntry
from agentcgroup.monitor.choice import choose
from agentcgroup.monitor.escape_return import EscapeReturn, resume, where_after_join
from agentcgroup.monitor.ledger import Ledger
from agentcgroup.monitor.source import KernelEvent, Source
from agentcgroup.monitor.thread_board import BoardReader
from agentcgroup.place.locate import CgroupLocator

__all__ = ["main"]

#: Seconds between two checks of the members' cgroups, while there are members.
_SWEEP: Final = 0.1
#: Members of one call that are checked in one sweep.
_CHECKS: Final = 1000
#: Events in one message.
_EVENTS: Final = 100


def main() -> None:
    """Run the helper; its arguments are the descriptors of its socket and of the thread board."""
    app = os.getppid()
    pidfd = os.pidfd_open(app)
    if os.fork():
        os._exit(0)
    os.setsid()
    with socket.socket(fileno=int(sys.argv[1])) as control:
        wire.enlarge_buffer(control)
        start = wire.receive(control)
        if start is None or start["app"] != app:
            return
        try:
            _watch(control, BoardReader(int(sys.argv[2])), start, pidfd)
        except Exception as error:
            wire.send(control, {"is": "failed", "why": repr(error)})
            raise


def _watch(control: socket.socket, board: BoardReader, start: wire.Message, app: int) -> None:
    source, refused = choose(start["backend"], start["detail"], stop=not start["joins"])
    ready: dict[str, Any] = {"is": "ready", "source": source and source.name, "refused": refused}
    if source is None:
        wire.send(control, ready)
        return
    with contextlib.closing(source):
        slots, fds = source.for_app()
        ready |= {"slots": [*slots], "missing": [*source.missing]}
        if wire.send(control, ready, fds):
            Helper(control, source, board, start).run(app)


class Helper:
    """Keeps the ledger until the app ends.

    The app announces a cgroup before a process is born in it, but the kernel's event may be read
    first. So announcements are read out of turn: when a child is seen in a cgroup without an entry,
    the helper reads all messages of the app and enters the announcements among them.
    """

    def __init__(
        self, control: socket.socket, source: Source, board: BoardReader, start: wire.Message
    ) -> None:
        """Serve the app at the other end of `control`; `start` is its first message."""
        control.setblocking(False)
        self._control = control
        self._source = source
        self._app = start["app"]
        self._joins = bool(start["joins"])
        self._ledger = Ledger(
            start["app"],
            start["run"],
            CgroupLocator().of_newborn,
            on_unknown=self._read_messages,
            on_outside=self._return_child,
        )
        self._escapes = EscapeReturn(self._ledger, board)
        self._messages: deque[wire.Message] = deque()
        self._over = False
        self._listening = False
        self._lost = False
        self._events: list[tuple[Any, ...]] = []
        self._swept = 0.0

    def run(self, app: int) -> None:
        """Serve until the process of the pidfd `app`, or the other end of the socket, is gone."""
        poll = select.poll()
        for fd in (app, self._control.fileno(), self._source.fd):
            poll.register(fd, select.POLLIN)
        while not self._over:
            if app in {fd for fd, _ in poll.poll(self._timeout())}:
                return
            self._read_messages()
            # An answer has all that happened before its question: later questions have to wait.
            asked = len(self._messages)
            events = self._source.read()
            self._read_messages()  # the cgroups of these events were announced before
            for event in events:
                self._enter(event)
            self._send_events()
            for _ in range(asked):
                self._act_on(self._messages.popleft())
            self._sweep()

    def _timeout(self) -> float | None:
        """Return the ms until the helper has to look by itself, None for never."""
        if self._messages:
            return 0
        # The first process of a call does not wake the helper, and a listener waits for its event.
        waiting = self._listening and self._ledger.entries
        if waiting or (self._source.needs_sweeps and self._ledger.members):
            return _SWEEP * 1000
        return None

    def _enter(self, event: KernelEvent) -> None:
        if event.kind == "outside":
            self._enter_outside(event)
            return
        if event.kind == "lost":
            self._report_lost()
        entry = self._ledger.take(event)
        if entry is not None:
            self._note(event, entry)
        # No event reports the cgroup of a child whose parent was outside.
        suspect = event.kind == "fork" and entry is not None and entry.escapes
        if entry is not None and (suspect or event.kind == "moved"):
            self._check(entry, event.pid)

    def _note(self, event: KernelEvent, entry: CallEntry) -> None:
        """Keep an event for the app's listeners; `_check` reports a process that has left."""
        if self._listening and event.kind != "moved":
            born_outside = event.kind == "fork" and event.pid in entry.born_outside
            kind = "escape" if born_outside or event.kind == "outside" else event.kind
            program = entry.program(event.pid) if kind == "exec" else None
            self._events.append(
                (kind, event.time, entry.id, event.pid, event.parent, program, event.status)
            )

    def _send_events(self) -> None:
        while self._events:
            sent, self._events = self._events[:_EVENTS], self._events[_EVENTS:]
            wire.send(self._control, {"is": "events", "events": sent})

    def _enter_outside(self, event: KernelEvent) -> None:
        if self._ledger.in_run(self._ledger.where(event.pid) or ""):
            # The app placed it before the cgroup was announced, or the process has moved itself.
            self._enter(event._replace(kind="fork", entry=None, cgroup=None))
            resume(event)
            entry = self._ledger.of(event.pid)
            if entry is not None and entry.id == event.cgroup:
                entry.counted = False  # born there, but the source has counted it for another
            return
        entry = self._ledger.entry_of_newborn(event)
        if entry is not None:
            self._escapes.born_of_member(entry, event)
        else:
            entry = self._return_child(event)
        if entry is not None:
            self._ledger.adopt(entry, event.pid, event.parent)
            self._note(event._replace(kind="fork"), entry)

    def _read_messages(self) -> None:
        """Read the app's messages, and enter the announcements among them."""
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

    def _act_on(self, message: wire.Message) -> None:
        match message["do"]:
            case "end":
                wire.send(self._control, self._end(message["id"], message["started"]))
            case "release":
                entry = self._ledger.get(message["id"])
                if entry is not None:
                    entry.released = True
            case "hold":
                self._escapes.hold_in(message["path"])
                self._source.follow_run(os.path.dirname(message["path"]))
            case "move_in":
                self._escapes.move_in(message["pid"], message["id"])
            case "kill":
                self._escapes.kill(message["pid"])

    def _add(self, message: wire.Message) -> None:
        cgroup, path = message["id"], message["path"]
        self._source.add(cgroup, message["slot"])
        present: list[int] = []
        if message["late"]:
            with contextlib.suppress(OSError), contextlib.closing(Cgroup.open(path)) as one:
                present = one.procs()
        self._ledger.add(cgroup, path, present)

    def _return_child(self, event: KernelEvent) -> CallEntry | None:
        """Return the entry of a child of the app that was born outside, and move it there."""
        if self._joins:
            path = where_after_join(self._ledger, self._app, event.pid)
            if path is None:  # it has ended: the app names it at the end of its call
                return self._ledger.add_unattributed(event.pid)
            if self._ledger.in_run(path):
                self._read_messages()
                return self._ledger.at(path)
        found = self._escapes.born_outside(event)
        if found is None:
            return None
        entry, number = found
        if number:
            wire.send(self._control, {"is": "outside", "pid": event.pid, "call": number})
        return entry

    def _sweep(self) -> None:
        """Check every 0.1 s whether members have left, where the source does not report it."""
        now = time.monotonic()
        if self._source.needs_sweeps and now - self._swept >= _SWEEP:
            self._swept = now
            for entry in self._ledger:
                self._check_members(entry)

    def _check_members(self, entry: CallEntry) -> None:
        for pid in [*entry.members][:_CHECKS]:
            self._check(entry, pid)

    def _check(self, entry: CallEntry, pid: int) -> None:
        if self._escapes.check(entry, pid):
            self._note(KernelEvent("outside", time.monotonic(), pid), entry)
            wire.send(self._control, {"is": "left", "pid": pid, "id": entry.id})

    def _report_lost(self) -> None:
        """Report to the app, once, that entries lack events."""
        if not self._lost:
            self._lost = True
            wire.send(self._control, {"is": "lost"})

    def _end(self, cgroup: int, started: Sequence[int]) -> wire.Message:
        """Remove the entry of a cgroup; returns the answer to the app."""
        there = self._ledger.get(cgroup)
        if there is not None:
            self._check_members(there)  # a process that is moved back now dies with the cgroup
        living = there is not None and bool(there.members)
        counters = self._source.counters(cgroup, living=living)
        self._source.remove(cgroup)
        if there is not None and counters.get("events_lost"):
            there.whole = False
            self._report_lost()
        entry = self._ledger.remove(cgroup, started, counters)
        answer: dict[str, Any] = {"is": "end", "id": cgroup}
        if entry is None:
            return answer
        if entry.whole:
            answer |= {
                "processes_started": entry.started,
                "programs": entry.programs,
                "programs_left_out": entry.left_out,
            }
            answer["counters"] = entry.counters if entry.counted else {}
        # That there was none is known only where no event is missing.
        answer["escapes"] = entry.escapes if entry.whole or entry.escapes else None
        return answer


if __name__ == "__main__":
    main()
