"""The host's side: tells the helper of cgroups, and asks it what happened in them.

Nothing here waits for the helper's start. Cgroups made before it is ready are announced when it is;
of a call that has started processes by then it cannot know everything and says nothing. One daemon
thread starts the helper and reads what it says.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from agentcgroup.cgroup import Cgroup
from agentcgroup.monitor import wire
from agentcgroup.monitor.events import Event
from agentcgroup.monitor.thread_board import Board, ThreadSlot
from agentcgroup.place.probe import is_charged
from agentcgroup.records.record import Program
from agentcgroup.scope import start_thread

if TYPE_CHECKING:
    from agentcgroup.monitor.bpf import Lent

__all__ = ["HURRY", "PATIENCE", "Monitor", "Watched"]

logger = logging.getLogger("agentcgroup")

#: Seconds that settling a call may wait for the helper: behind the calls, and in a tool's thread.
PATIENCE: Final = 5.0
HURRY: Final = 0.25

#: Cgroups that are remembered before it is looked which are still there.
_HOMES: Final = 256

_CODE: Final = """\
import sys
sys.path.insert(0, sys.argv.pop(1))
from agentcgroup.monitor.helper import main
main()
"""


class Watched(Protocol):
    """What the monitor knows of a call; `calls.Call` is the real one."""

    number: int

    def note_charged(self, charged: int) -> None:
        """Add bytes of memory that the kernel charged to a thread that worked for the call."""

    @property
    def id(self) -> str:
        """The call's id in its record."""

    def stop(self, reason: str) -> None:
        """End every process of the call."""

    def adopt(self, pid: int) -> Cgroup | None:
        """Bring a process of the call, born outside, into its cgroup.

        Returns the cgroup, made if need be; None when the call is over.
        """


class Monitor:
    """The monitor of one session.

    Attributes:
        state: "new", "starting", "on"; "off" when no source can be had here; "dead" when the helper
            has died; "closed".
        source: the name of the source in use, None while there is none.
        refused: (name, reason, fix) of each source that was tried and cannot be had.
    """

    def __init__(self, backend: str, detail: str, *, kills: bool, run: str, joins: bool) -> None:
        """Prepare a monitor; see `settings.MonitorTable`.

        Args:
            backend: as configured.
            detail: as configured.
            kills: a process that leaves its call's cgroup ends the call.
            run: path of the run's cgroup, which need not be there yet.
            joins: a child of a call moves itself into its cgroup, since it cannot be born there.
        """
        self.state: Literal["new", "starting", "on", "off", "dead", "closed"] = "new"
        self.source: str | None = None
        self.refused: list[tuple[str, str, str | None]] = []
        self._start = {
            "host": os.getpid(),
            "backend": backend,
            "detail": detail,
            "run": run,
            "joins": joins,
        }
        self._kills = kills
        self.harbour: Callable[[], str | None] = _nothing
        self.on_ready: Callable[[], None] = _nothing
        self._lock = threading.Lock()
        self._decided = threading.Event()
        self._homes: dict[int, str] = {}
        self._prune_at = _HOMES
        self._asked: dict[int, tuple[threading.Event, list[wire.Message]]] = {}
        self._listeners: list[Callable[[Event], None]] = []
        self._epoch = time.time() - time.monotonic()
        self._lagging = False
        self._why = ""
        self._socket: socket.socket | None = None
        self._board: Board | None = None
        self._lent: Lent | None = None
        self._seated: dict[int, Watched] = {}
        self._enclosed: dict[int, Watched] = {}
        self._fetched: dict[int, threading.Event] = {}
        if backend == "off":
            self.state = "off"
            self._decided.set()

    # -- its life -----------------------------------------------------------------------------

    def start(self) -> None:
        """Have the helper started, once; returns at once."""
        if self.state != "new":
            return
        with self._lock:
            if self.state != "new":
                return
            self.state = "starting"
        start_thread(self._work, "monitor")

    @property
    def _watching(self) -> bool:
        """Whether there is a source, or may be one yet."""
        return self.state in ("new", "starting", "on")

    def wait(self, timeout: float) -> bool:
        """Wait until it is known whether there is a source, `timeout` seconds at most."""
        self._decided.wait(timeout)
        return self.state == "on"

    def close(self) -> None:
        """End the helper."""
        with self._lock:
            self.state = "closed"
            ours, self._socket = self._socket, None
            lent, self._lent = self._lent, None
            board, self._board = self._board, None
        if board is not None:
            board.close()
        if lent is not None:
            lent.close()
        if ours is not None:
            with contextlib.suppress(OSError):
                ours.shutdown(socket.SHUT_RDWR)
            ours.close()
        self._decided.set()

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Have `listener` called with every event from now on, on a thread of ours."""
        self._listeners.append(listener)
        self.start()
        self._tell_listening()

    def unlisten(self, listener: Callable[[Event], None]) -> None:
        """Undo `listen`."""
        with contextlib.suppress(ValueError):
            self._listeners.remove(listener)
        self._tell_listening()

    def _tell_listening(self) -> None:
        """Have the helper look for events in time, or only when it has to."""
        if self.state == "on":
            self._send({"do": "listen", "on": bool(self._listeners)})

    # -- calls --------------------------------------------------------------------------------

    def sit(self, call: Watched) -> ThreadSlot | None:
        """Say that a call begins in this thread; None where nothing watches."""
        if self.state != "on" or self._board is None:
            return None
        sitting = self._board.sit(call.number)
        if sitting is not None:
            self._seated[call.number] = call
        return sitting

    @contextlib.contextmanager
    def seated(self, call: Watched | None) -> Iterator[None]:
        """Say that this thread works for a call that began in another one, or for none."""
        board = self._board if self.state == "on" else None
        sitting = None if board is None else board.sit(0 if call is None else call.number)
        try:
            yield
        finally:
            if sitting is not None:
                _charge(call, sitting)
                sitting.leave()

    def leave(self, call: Watched, sitting: ThreadSlot) -> None:
        """Say that a call ends; waits until a child of its that was found outside is in."""
        if sitting.found():
            self._fetching(call.number).wait(PATIENCE)
        _charge(call, sitting)
        sitting.leave()
        self._seated.pop(call.number, None)
        self._fetched.pop(call.number, None)

    def enclosed(self, call: Watched, cgroup: Cgroup, sitting: ThreadSlot | None) -> None:
        """Say that a call has got a cgroup."""
        if self.state == "on":
            number = cgroup.id
            self._enclosed[number] = call
            if sitting is not None:
                sitting.enclosed(number)

    def placing(self, begins: bool) -> None:
        """Say that this thread begins, or has ended, to start a child in a call's cgroup."""
        board = self._board
        if board is not None:
            board.placing(begins)

    def release(self, cgroup: Cgroup) -> None:
        """Let the processes of a call go elsewhere."""
        if self.state == "on":
            self._send({"do": "release", "id": cgroup.id})

    def _fetching(self, number: int) -> threading.Event:
        return self._fetched.setdefault(number, threading.Event())

    # -- cgroups ------------------------------------------------------------------------------

    def made(self, cgroup: Cgroup) -> None:
        """Say that a cgroup was made for a call, before anything is in it."""
        if not self._watching:
            return
        number = cgroup.id
        with self._lock:  # a cgroup is announced once: by us, or by `_ready`
            self._homes[number] = cgroup.path
            ready = self.state == "on"
        if ready:
            self._announce(number, cgroup.path)
        if len(self._homes) >= self._prune_at:
            self._prune()
            self._prune_at = 2 * len(self._homes) + _HOMES

    def _prune(self) -> None:
        """Forget cgroups that were removed with no call ever asking for them, as spares are."""
        for number, path in tuple(self._homes.items()):
            if not os.path.exists(path) and self._homes.pop(number, None) is not None:
                self._ask_end(number, ())

    def seen(
        self, cgroup: Cgroup, started: Sequence[int], patience: float
    ) -> Mapping[str, Any] | None:
        """Return what happened in a cgroup whose call is over, by the names of `CallRecord`.

        None where that is not known; what a source cannot tell is left out.

        Args:
            cgroup: the call's.
            started: processes that were placed in it, as far as they are known here.
            patience: seconds to wait for the helper to have caught up.
        """
        if not self._watching:
            return None
        number = cgroup.id
        if self._homes.pop(number, None) is None or self.state != "on":
            return None
        answered, answer = threading.Event(), list[wire.Message]()
        self._asked[number] = (answered, answer)
        try:
            if not self._ask_end(number, started):
                return None
            # One that has not answered in time is not waited for as long again until it does.
            self._lagging = not answered.wait(HURRY if self._lagging else patience)
        finally:
            self._asked.pop(number, None)
            self._enclosed.pop(number, None)
        return self._figures(answer[0]) if answer else None

    def _ask_end(self, number: int, started: Sequence[int]) -> bool:
        return self._send({"do": "end", "id": number, "started": [*started]})

    def _figures(self, answer: wire.Message) -> Mapping[str, Any] | None:
        known = {key: value for key, value in answer.items() if key not in ("is", "id")}
        if not known:
            return None
        if "programs" in known:
            known["programs"] = tuple(Program(**one) for one in known["programs"])
        counted = _counted(known.pop("counters", {}))
        return {"monitor": self.source, **known, **counted}

    # -- the helper ---------------------------------------------------------------------------

    def _work(self) -> None:
        """Start the helper, then hear it until one of us ends."""
        try:
            theirs = self._launch()
        except OSError as error:
            self._over("off", f"the monitor's helper cannot be started: {error}")
            return
        try:
            while (message := wire.receive(theirs)) is not None:
                self._hear(message)
        except (OSError, ValueError):  # closed under our hands, or by the helper's death
            pass
        except Exception as error:
            logger.exception("agentcgroup: what the monitor's helper told could not be dealt with")
            self._over("dead", f"the monitor is ended ({error!r}): calls go on without it")
        if self.state in ("starting", "on"):
            why = f"the monitor's helper has died{self._why}: calls go on without it"
            self._over("dead", why)

    def _launch(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        board = Board()
        try:
            self._start_helper(ours, theirs, board.fd)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            board.sent()
        with self._lock:
            if self.state == "closed":
                ours.close()
            else:
                self._socket, self._board = ours, board
        return ours

    def _start_helper(self, ours: socket.socket, theirs: socket.socket, board: int) -> None:
        wire.widen(ours)
        folder = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        fds = (theirs.fileno(), board)
        helper = subprocess.Popen(
            [_python(), "-I", "-S", "-c", _CODE, folder, *map(str, fds)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=fds,
            cwd="/",
        )
        wire.send(ours, {"do": "start", **self._start})
        helper.wait()  # it goes on as a process of its own

    def _hear(self, message: wire.Message) -> None:
        match message["is"]:
            case "ready":
                self._ready(message)
            case "events":
                for told in message["events"]:
                    self._hear_of(told)
            case "lost":
                logger.warning(
                    "agentcgroup: more happened at once than the monitor could take in: it does not"
                    " know, now or later, which processes the calls of such a moment had"
                )
            case "failed":
                self._why = f" ({message['why']})"
            case "outside":
                self._fetch(message["pid"], message["call"])
            case "left":
                call = self._enclosed.get(message["id"])
                if call is not None and self._kills:
                    call.stop("escape")
            case "end":
                self._lagging = False
                if self._lent is not None:
                    self._lent.forget(message["id"])
                asked = self._asked.get(message["id"])
                if asked is not None:
                    asked[1].append(message)
                    asked[0].set()

    def _hear_of(self, told: Sequence[Any]) -> None:
        kind, moment, home, pid, parent, program, status = told
        call = self._enclosed.get(home)
        ended = kind == "exit"
        number = status & 0x7F
        event = Event(
            kind=kind,
            time=self._epoch + moment,
            call=None if call is None else call.id,
            pid=pid,
            ppid=parent if kind == "fork" else None,
            program=program,
            exit_code=status >> 8 & 0xFF if ended and not number else None,
            signal=number if ended and number else None,
        )
        for listener in tuple(self._listeners):
            try:
                listener(event)
            except Exception:
                logger.exception("agentcgroup: an on_event callback failed")

    def _ready(self, message: wire.Message) -> None:
        self.refused = [(name, reason, fix) for name, reason, fix in message["refused"]]
        self.source = message["source"]
        if self.source is None:
            self._over("off", None)
            return
        if "fds" in message and self._board is not None:
            from agentcgroup.monitor.bpf import Lent

            asked = self._start["detail"] == "full"
            counted = asked and "memory_charged_bytes" not in message["missing"]
            charges = counted and is_charged()
            lent = Lent(message["slots"], message["fds"], charges=charges)
            self._lent = self._board.switches = lent
        with self._lock:
            self.state = "on"
            homes = tuple(self._homes.items())
        self.on_ready()
        for number, path in homes:
            self._announce(number, path, late=True)
        if self._listeners:
            self._tell_listening()
        if (harbour := self.harbour()) is not None:
            self._send({"do": "harbour", "path": harbour})
        self._decided.set()

    def _fetch(self, pid: int, number: int) -> None:
        """Give a child that was born outside its place; it is killed when its call is over."""
        call = self._seated.get(number)
        try:
            cgroup = None if call is None else call.adopt(pid)
        except Exception:
            logger.exception("agentcgroup: a process born outside of its call is not contained")
            return
        finally:
            self._fetching(number).set()
        if cgroup is None:
            self._fetched.pop(number, None)
            logger.warning("agentcgroup: ended a process that a call had started unseen: %d", pid)
            self._send({"do": "drop", "pid": pid})
        else:
            self._send({"do": "fetch", "pid": pid, "id": cgroup.id})

    def _over(self, state: Literal["off", "dead"], why: str | None) -> None:
        with self._lock:
            if self.state == "closed":
                return
            self.state = state
            ours, self._socket = self._socket, None
        if ours is not None:
            ours.close()
        for waited in (self._homes, self._enclosed, self._seated):
            waited.clear()
        for fetched in tuple(self._fetched.values()):
            fetched.set()
        for answered, _ in tuple(self._asked.values()):
            answered.set()
        self._decided.set()
        if why is not None:
            logger.warning("agentcgroup: %s", why)

    def _announce(self, number: int, path: str, *, late: bool = False) -> None:
        lent = self._lent
        slot = 0 if lent is None else lent.follow(number)
        self._send({"do": "add", "id": number, "path": path, "late": late, "slot": slot})

    def _send(self, message: wire.Message) -> bool:
        ours = self._socket
        return ours is not None and wire.send(ours, message)


#: Figures of a record, and the counters they are made of, with what a unit of it is.
_FIGURES: Final = (
    ("run_delay_s", "run_delay_ns", 1e-9),
    ("memory_charged_bytes", "memory_charged_bytes", 1),
    ("reclaim_s", "reclaim_ns", 1e-9),
    ("memory_high_s", "memory_high_ns", 1e-9),
    ("files_opened", "files_opened", 1),
    ("net_rx_bytes", "net_rx_bytes", 1),
    ("net_tx_bytes", "net_tx_bytes", 1),
)


def _counted(counters: Mapping[str, int | None]) -> dict[str, Any]:
    """Turn counters of the kernel into figures of a record; absent stays absent."""
    return {
        name: count * unit
        for name, counter, unit in _FIGURES
        if (count := counters.get(counter)) is not None
    }


def _charge(call: Watched | None, sitting: ThreadSlot) -> None:
    """Add what memory a thread was charged while it worked for a call.

    Nothing of a thread that runs an event loop, where other calls have their turns meanwhile.
    """
    charged = sitting.charged()
    if call is None or charged is None or asyncio._get_running_loop() is not None:
        return
    call.note_charged(charged)


def _nothing() -> None:
    return None


def _python() -> str:
    """Return this very Python; OSError where the program is another one that embeds it."""
    if not os.path.basename(sys.executable or "").startswith(("python", "pypy")):
        raise OSError(f"{sys.executable or 'this program'} is no Python to run it with")
    return sys.executable
