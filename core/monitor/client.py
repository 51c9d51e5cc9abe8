"""The app's side of the monitor: announces cgroups, and asks the helper what happened in them.

A cgroup that is made before the helper is ready is announced when the helper is. A call that began
before that gets no figures from the monitor, since some of its events may be missing. Where the
monitor is demanded, the first call waits for the helper.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from agentcgroup.cgroup import Cgroup
from agentcgroup.monitor import wire
from agentcgroup.monitor.adoption import Adoptions
from agentcgroup.monitor.announced import AnnouncedCgroups
from agentcgroup.monitor.connection import HelperConnection
from agentcgroup.monitor.figures import figures
from agentcgroup.monitor.listeners import Listener, Listeners
from agentcgroup.monitor.thread_board import ThreadSlot
from agentcgroup.monitor.watched import WatchedCall
from agentcgroup.place.probe import is_charged

if TYPE_CHECKING:
    from agentcgroup.monitor.bpf import AppSlots

__all__ = ["HURRY", "PATIENCE", "Monitor"]

logger = logging.getLogger("agentcgroup")

#: Seconds to wait for the helper's answer about a call: on a thread of ours, and on the tool's.
PATIENCE: Final = 5.0
HURRY: Final = 0.25


class Monitor(HelperConnection):
    """The monitor of one session.

    Attributes:
        state, awaited: as in `HelperConnection`.
        source: the name of the source in use, None while there is none.
        refused: (name, reason, fix) of each source that was tried and does not work here.
    """

    def __init__(
        self,
        backend: str,
        detail: str,
        *,
        kills: bool,
        run: str,
        joins: bool,
        holding_cgroup: Callable[[], str | None],
        on_ready: Callable[[Monitor], None],
        demanded: bool = False,
    ) -> None:
        """Prepare a monitor; see `config.tables.MonitorTable`.

        Args:
            backend: as configured.
            detail: as configured.
            kills: a process that leaves its call's cgroup ends the call.
            run: path of the run's cgroup, which need not be there yet.
            joins: a child of a call moves itself into its cgroup, since it cannot be born there.
            holding_cgroup: returns the path of the cgroup that holds a process whose call has no
                cgroup yet, None when there is none. Called once, on the monitor's thread.
            on_ready: called with this monitor on its thread when there is a source.
            demanded: the first call waits for the helper.
        """
        start: dict[str, object] = {"do": "start", "app": os.getpid(), "run": run, "joins": joins}
        start |= {"backend": backend, "detail": detail}
        super().__init__(start, off=backend == "off", demanded=demanded)
        self.source: str | None = None
        self.refused: list[tuple[str, str, str | None]] = []
        self._kills = kills
        self._holding_cgroup = holding_cgroup
        self._on_ready = on_ready
        self._listeners = Listeners()
        self._announced = AnnouncedCgroups(self._send)
        self._by_number: dict[int, WatchedCall] = {}
        self._by_cgroup: dict[int, WatchedCall] = {}
        self._adoptions = Adoptions(self._by_number, self._send)
        self._app_slots: AppSlots | None = None

    @property
    def _watching(self) -> bool:
        """Whether there is a source, or may be one yet."""
        return self.state in ("new", "starting", "on")

    def close(self) -> None:
        """End the helper, and close the descriptors that it has sent."""
        super().close()
        with self._lock:
            slots, self._app_slots = self._app_slots, None
        if slots is not None:
            slots.close()

    def listen(self, listener: Listener) -> None:
        """Call `listener` with every event from now on, on the monitor's thread."""
        self._listeners.add(listener)
        self.start()
        self._send_listening()

    def unlisten(self, listener: Listener) -> None:
        """Undo `listen`."""
        self._listeners.remove(listener)
        self._send_listening()

    def _send_listening(self) -> None:
        """Have the helper read events every 0.1 s, or only when it has to act."""
        if self.state == "on":
            self._send({"do": "listen", "on": bool(self._listeners)})

    # -- calls --------------------------------------------------------------------------------

    def occupy(self, call: WatchedCall) -> ThreadSlot | None:
        """Enter a call that begins in this thread on the thread board.

        Returns the slot, for `vacate`; None without a helper, and where all slots are taken.
        """
        if self.state != "on" or self._board is None:
            return None
        slot = self._board.occupy(call.number)
        if slot is not None:
            self._by_number[call.number] = call
        return slot

    @contextlib.contextmanager
    def working_for(self, call: WatchedCall | None) -> Iterator[None]:
        """Enter on the board that this thread works for a call of another thread, or for none."""
        board = self._board if self.state == "on" else None
        slot = None if board is None else board.occupy(0 if call is None else call.number)
        try:
            yield
        finally:
            if slot is not None:
                _note_charged(call, slot)
                slot.vacate()

    def vacate(self, call: WatchedCall, slot: ThreadSlot) -> None:
        """Take a call that ends off the board.

        Waits up to `PATIENCE` seconds while the call adopts a child that the helper found outside.
        """
        if slot.found_outside():
            self.wait_adopted(call.number)
        _note_charged(call, slot)
        slot.vacate()
        self._by_number.pop(call.number, None)
        self._adoptions.done.pop(call.number, None)

    def wait_adopted(self, number: int) -> None:
        """Wait up to `PATIENCE` seconds while a call, by its number, adopts a child."""
        self._adoptions.wait(number, PATIENCE)

    def note_cgroup(self, call: WatchedCall, cgroup: Cgroup, slot: ThreadSlot | None) -> None:
        """Note the cgroup that a call has got; `slot` is the call's from `occupy`."""
        if self.state == "on":
            number = cgroup.id
            self._by_cgroup[number] = call
            if slot is not None:
                slot.set_cgroup(number)

    def placing(self, begins: bool) -> None:
        """Note that this thread begins, or has ended, to start a child in a call's cgroup."""
        board = self._board
        if board is not None:
            board.placing(begins)

    def release(self, cgroup: Cgroup) -> None:
        """Let processes leave the cgroup of a call from now on."""
        if self.state == "on":
            self._send({"do": "release", "id": cgroup.id})

    # -- cgroups ------------------------------------------------------------------------------

    def made(self, cgroup: Cgroup) -> None:
        """Announce a cgroup that was made for a call, before any process is in it."""
        if not self._watching:
            return
        number = cgroup.id
        with self._lock:  # a cgroup is announced once: here, or in `_ready`
            self._announced.keep(number, cgroup.path)
            ready = self.state == "on"
        if ready:
            self._announced.announce(number, cgroup.path)
        self._announced.prune()

    def seen(
        self, cgroup: Cgroup, began: float, started: Sequence[int], patience: float
    ) -> Mapping[str, Any] | None:
        """Return what happened in a cgroup whose call is over, by the names of `CallRecord`.

        None where the helper has missed a part of it or does not answer in time. A figure that the
        source does not have is absent.

        Args:
            cgroup: the call's.
            began: when the call began, by `time.monotonic`.
            started: pids of processes that the app has placed in it, the last ones.
            patience: seconds to wait for the answer.
        """
        if not self._watching:
            return None
        number = cgroup.id
        if not self._announced.pop(number) or self.state != "on":
            return None
        try:
            answer = self._announced.ask(number, started, patience=patience, hurry=HURRY)
        finally:
            self._by_cgroup.pop(number, None)
        if not self._watched_since(began):
            return None
        return None if answer is None else figures(answer, self.source)

    # -- messages of the helper -----------------------------------------------------------------

    def _receive(self, message: wire.Message) -> None:
        match message["is"]:
            case "ready":
                self._ready(message)
            case "events":
                for event in message["events"]:
                    call = self._by_cgroup.get(event[2])
                    self._listeners.dispatch(event, None if call is None else call.id)
            case "lost":
                logger.warning(
                    "agentcgroup: more happened at once than the monitor could take in: the records"
                    " of the calls of that moment lack the processes that they had"
                )
            case "failed":
                self._cause = f" ({message['why']})"
            case "outside":
                self._adoptions.adopt(message["pid"], message["call"])
            case "left":
                call = self._by_cgroup.get(message["id"])
                if call is not None and self._kills:
                    call.stop("escape")
            case "end":
                self._announced.answer(message)

    def _ready(self, message: wire.Message) -> None:
        self.refused = [(name, reason, fix) for name, reason, fix in message["refused"]]
        self.source = message["source"]
        if self.source is None:
            told = "; ".join(f"{name}: {reason.rstrip('.')}" for name, reason, _ in self.refused)
            self._end("off", f"there is no monitor: {told}" if self._demanded else None)
            return
        if "fds" in message and self._board is not None:
            self._use_slots(message)
        with self._lock:
            self.state = "on"
            kept = self._announced.kept()
        self._on_ready(self)
        for number, path in kept:
            self._announced.announce(number, path, late=True)
        self._note_ready()
        if self._listeners:
            self._send_listening()
        if (held_in := self._holding_cgroup()) is not None:
            self._send({"do": "hold", "path": held_in})
        self._decided.set()

    def _use_slots(self, message: wire.Message) -> None:
        """Share counter slots with the kernel, for threads and for cgroups."""
        from agentcgroup.monitor.bpf import AppSlots  # only an app with BPF programs pays for it

        asked = self._start["detail"] == "full"
        counted = asked and "memory_charged_bytes" not in message["missing"]
        slots = AppSlots(message["slots"], message["fds"], charges=counted and is_charged())
        self._app_slots = slots
        self._announced.use_slots(slots)
        if self._board is not None:
            self._board.use_switches(slots)

    def _forget(self) -> None:
        self._announced.clear()
        self._by_cgroup.clear()
        self._by_number.clear()
        self._adoptions.release_all()


def _note_charged(call: WatchedCall | None, slot: ThreadSlot) -> None:
    """Note for a call what memory its thread was charged in a slot, in bytes.

    Not for a thread that runs an event loop: other calls run on it meanwhile.
    """
    charged = slot.charged()
    if call is None or charged is None or asyncio._get_running_loop() is not None:
        return
    call.note_charged(charged)
