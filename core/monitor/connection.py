"""The app's connection to its helper: one daemon thread starts the helper and reads its messages.

Nothing in the app waits for the helper's start, but the first call where the monitor is demanded.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from abc import ABC, abstractmethod
from typing import Final, Literal

from agentcgroup.monitor import wire
from agentcgroup.monitor.launch import launch
from agentcgroup.monitor.thread_board import ThreadBoard
from agentcgroup.threads import Event, Lock, Socket, start_thread

__all__ = ["READY_WAIT", "HelperConnection"]

logger = logging.getLogger("agentcgroup")

#: Seconds that the first call waits for a monitor that is demanded; BPF programs take 0.1 s to
#: load, those of BCC several seconds to compile.
READY_WAIT: Final = 10.0


class HelperConnection(ABC):
    """The state of a helper as the app sees it, and the way to it.

    Attributes:
        state: "new"; "starting"; "on", the helper has a source; "off", no source works here;
            "dead", the helper has died; "closed".
        awaited: the next call is to wait for the helper (`await_ready`).
    """

    def __init__(self, start: wire.Message, *, off: bool, demanded: bool) -> None:
        """Prepare a connection.

        Args:
            start: the first message to the helper.
            off: there will be no helper.
            demanded: the first call is to wait for the helper.
        """
        self.state: Literal["new", "starting", "on", "off", "dead", "closed"] = "new"
        self._start = start
        self._cause = ""
        self._lock = Lock()
        self._decided = Event()
        self._socket: Socket | None = None
        self._board: ThreadBoard | None = None
        self._demanded = demanded
        self.awaited = demanded and not off
        #: By `time.monotonic`: what begins later is watched from its beginning.
        self._ready_since: float | None = None
        self._told_late = False
        if off:
            self.state = "off"
            self._decided.set()

    def start(self) -> None:
        """Start the helper, once; returns at once."""
        if self.state != "new":
            return
        with self._lock:
            if self.state != "new":
                return
            self.state = "starting"
        try:
            start_thread(self._run, "monitor")
        except RuntimeError as error:
            self._end("off", f"the monitor's helper cannot be started: {error}")

    def wait(self, timeout: float) -> bool:
        """Wait until it is decided whether there is a source; returns whether there is one.

        Args:
            timeout: seconds to wait at most.
        """
        self._decided.wait(timeout)
        return self.state == "on"

    def await_ready(self) -> None:
        """Wait until the helper is ready, at most `READY_WAIT` seconds; no later call waits."""
        self.wait(READY_WAIT)
        self.awaited = False

    def _note_ready(self) -> None:
        self._ready_since = time.monotonic()
        self.awaited = False

    def _watched_since(self, began: float) -> bool:
        """Return whether the helper was ready at a time; the log says if not, once."""
        since = self._ready_since
        if since is not None and began >= since:
            return True
        if self._demanded and not self._told_late:
            self._told_late = True
            logger.warning(
                "agentcgroup: the monitor was not ready when a call began: it was not watched, as"
                " its record shows (monitor is None)"
            )
        return False

    def close(self) -> None:
        """End the helper: it exits at the end of the socket."""
        with self._lock:
            self.state = "closed"
            self.awaited = False
            ours, self._socket = self._socket, None
            board, self._board = self._board, None
        if board is not None:
            board.close()
        if ours is not None:
            with contextlib.suppress(OSError):
                ours.shutdown(socket.SHUT_RDWR)
            ours.close()
        self._decided.set()

    @abstractmethod
    def _receive(self, message: wire.Message) -> None:
        """Act upon a message of the helper."""

    @abstractmethod
    def _forget(self) -> None:
        """Drop everything that waits for the helper, which is gone."""

    def _run(self) -> None:
        """Start the helper, then read its messages until either side ends."""
        try:
            ours = self._launch()
        except OSError as error:
            self._end("off", f"the monitor's helper cannot be started: {error}")
            return
        try:
            while (message := wire.receive(ours)) is not None:
                self._receive(message)
        except (OSError, ValueError):  # `close` has closed the socket, or the helper has died
            pass
        except Exception as error:
            logger.exception("agentcgroup: a message of the monitor's helper cannot be processed")
            self._end("dead", f"the monitor is ended ({error!r}): calls go on without it")
        if self.state in ("starting", "on"):
            self._end("dead", f"the monitor's helper has died{self._cause}: calls go on without it")

    def _launch(self) -> Socket:
        board = ThreadBoard()
        try:
            ours = launch(self._start, board.fd)
        finally:
            board.close_fd()
        with self._lock:
            if self.state == "closed":
                ours.close()
            else:
                self._socket, self._board = ours, board
        return ours

    def _end(self, state: Literal["off", "dead"], cause: str | None) -> None:
        """Go on without the helper; the log gets the cause."""
        with self._lock:
            if self.state == "closed":
                return
            self.state = state
            self.awaited = False
            ours, self._socket = self._socket, None
        if ours is not None:
            ours.close()
        self._forget()
        self._decided.set()
        if cause is not None:
            logger.warning("agentcgroup: %s", cause)

    def _send(self, message: wire.Message) -> bool:
        ours = self._socket
        return ours is not None and wire.send(ours, message)
