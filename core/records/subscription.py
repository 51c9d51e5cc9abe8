"""One observer of records: its queue, its thread, and what its faults lead to."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from agentcgroup.records.ordering import EndOrder, Recorded
from agentcgroup.records.record import CallRecord
from agentcgroup.threads import Empty, Event, Lock, SimpleQueue, Thread, start_thread

__all__ = ["FLUSH_INTERVAL", "QUEUE_SIZE", "Callback", "Observer", "Subscription"]

logger = logging.getLogger("agentcgroup")

#: Seconds between the first entry of a batch and its delivery, and at most between two flushes
#: while a batch is delivered. A process that is killed loses the records of this time.
FLUSH_INTERVAL: Final = 0.05
#: Entries that wait for one observer at most; later ones are dropped and counted.
QUEUE_SIZE: Final = 10_000
#: Entries from which on a batch does not wait for the flush interval to pass.
_BACKLOG: Final = 1_000
#: Seconds between two looks at entries that wait, while somebody waits for them.
_HURRY: Final = 0.002
#: Seconds between two looks at an entry that later ones have overtaken.
_LATE: Final = 1.0
#: Faults of one method of an observer in a row, and faults in all, that switch the observer off.
_FAULTS_IN_A_ROW: Final = 3
_FAULTS: Final = 10


class Observer(Protocol):
    """Receives the records of finished calls, in the order in which the calls ended.

    All methods run on the observer's own thread, one at a time. Three more are optional and take no
    argument:

    - ``flush()`` writes or sends what ``on_record`` has collected. It runs after each batch, and
      every `FLUSH_INTERVAL` seconds within a long one.
    - ``close()`` releases what the observer holds. It runs once, after the last ``flush()``.
    - ``after_fork()`` runs in a forked child, in the thread that forked, before the first record
      there: what the observer has collected and not flushed belongs to the parent.
    """

    @property
    def name(self) -> str:
        """The name under which log messages report the observer."""

    def on_record(self, record: CallRecord) -> None:
        """Take one record. Whatever this raises is logged and counts as a fault."""


def _nothing() -> None:
    """Stand in for a method that an observer does not have."""


class Callback:
    """A plain function as an `Observer`, under its qualified name."""

    def __init__(self, function: Callable[[CallRecord], None]) -> None:
        self.on_record = function
        named: Any = getattr(function, "func", function)  # of a functools.partial
        if not hasattr(named, "__qualname__"):
            named = type(named)
        module = getattr(named, "__module__", None)
        self.name: str = named.__qualname__ if module is None else f"{module}.{named.__qualname__}"


class Subscription:
    """The queue and the thread of one observer."""

    def __init__(self, observer: Observer, remove: Callable[[Subscription], None]) -> None:
        self.observer = observer
        self._remove = remove
        self._flush: Callable[[], None] = getattr(observer, "flush", _nothing)
        self._close: Callable[[], None] = getattr(observer, "close", _nothing)
        # An event marks a place in the queue: set once everything before it is delivered. None
        # ends the thread. SimpleQueue.put wakes nobody while the thread waits for the interval.
        self._queue: SimpleQueue[Recorded | Event | None] = SimpleQueue()
        self._hurry = Event()
        self._order = EndOrder()
        self._held = 0  # entries in `_order`
        self._closing = False
        self._starting = Lock()
        self._thread: Thread | None = None
        self._deadline = math.inf
        self._ended = False
        self._dropped = 0
        self._overflow_logged = False
        self._faults = 0
        self._faults_in_a_row: dict[str, int] = {}

    # -- on any thread ------------------------------------------------------------------------

    def put(self, entry: Recorded) -> None:
        """Queue `entry`; drop it when the queue is full."""
        # Threads that pass this at once add one each.
        if self._queue.qsize() + self._held >= QUEUE_SIZE:
            self._dropped += 1  # no thread switch within: CPython switches at calls and jumps
            return
        self._queue.put(entry)
        if self._thread is None:
            self._start()

    def is_own_thread(self) -> bool:
        """Return whether the observer's thread is the caller."""
        return self._thread is not None and self._thread.is_current()

    def mark(self) -> Event:
        """Return an event that is set once everything queued so far is delivered and flushed."""
        mark = Event()
        if self._thread is None and self._queue.empty():
            mark.set()
            return mark
        self._queue.put(mark)
        self._hurry.set()
        if self._ended:  # after its last look into the queue, perhaps
            mark.set()
        elif self._thread is None:
            self._start()
        return mark

    def begin_close(self, deadline: float) -> None:
        """Have the thread end behind what is queued; return at once."""
        self._deadline = deadline
        unused = self._thread is None and self._queue.empty() and self._close is _nothing
        self._queue.put(None)
        self._hurry.set()
        if self._thread is None and not unused:
            self._start()

    def join(self, deadline: float) -> None:
        """Wait for the thread to end; drop what is left in the queue at `deadline`."""
        with self._starting:
            thread = self._thread
            if thread is None:
                self._thread = here = Thread(f"observer-{self.observer.name}")
        if thread is None:
            # Python 3.12 and later refuse to start a thread in an atexit handler.
            here.run(self._work)
        elif not thread.is_current():
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                self._drop_queued()
                self._queue.put(None)
                self._log_dropped()

    def _start(self) -> None:
        # Not waited for: whoever holds the lock starts the thread, which finds every entry.
        if self._starting.acquire(blocking=False):
            try:
                if self._thread is None:
                    self._thread = start_thread(self._work, f"observer-{self.observer.name}")
            except RuntimeError:  # no more threads, or the interpreter ends; `join` delivers then
                pass
            finally:
                self._starting.release()

    def _drop_queued(self) -> None:
        self._dropped += self._held
        self._held = 0
        while True:
            try:
                item = self._queue.get_nowait()
            except Empty:
                return
            if isinstance(item, Event):
                item.set()
            elif item is not None:
                self._dropped += 1

    def _log_dropped(self) -> None:
        dropped, self._dropped = self._dropped, 0
        if dropped:
            name = self.observer.name
            logger.warning("agentcgroup: %d records did not reach the observer %s", dropped, name)

    # -- on the observer's thread -------------------------------------------------------------

    def _work(self) -> None:
        try:
            going = True
            while going and not self._ended:
                self._order.set_marks()
                self._await_entries()
                going = self._deliver_batch()
                self._attempt("flush", self._flush)
        finally:
            switched_off, self._ended = self._ended, True  # before the last look: see `mark`
            self._remove(self)
            self._drop_queued()
            if not switched_off:
                self._log_dropped()
            self._attempt("close", self._close)
            self._order.set_marks(every=True)

    def _await_entries(self) -> None:
        """Wait for the first entry of a batch, then one flush interval for more."""
        order = self._order
        if not order:
            try:
                self._take(self._queue.get(timeout=_LATE if order.late else None))
            except Empty:
                return
        if order.marked or self._closing:
            self._hurry.wait(_HURRY)
        elif self._queue.qsize() < _BACKLOG:
            self._hurry.wait(FLUSH_INTERVAL)
        self._hurry.clear()  # before the queue is measured: a later mark sets it again

    def _take(self, item: Recorded | Event | None) -> None:
        if item is None:
            self._closing = True
        else:
            self._order.add(item)

    def _deliver_batch(self) -> bool:
        """Deliver what is queued and due; False when the thread has to end."""
        order, horizon = self._order, time.monotonic()
        for _ in range(self._queue.qsize()):
            self._take(self._queue.get())
        due = order.due(horizon)
        self._held = len(order) + len(due)
        flush_at = horizon + FLUSH_INTERVAL
        for entry in due:
            now = time.monotonic()
            if now >= flush_at:
                self._attempt("flush", self._flush)
                flush_at = now + FLUSH_INTERVAL
            self._held -= 1
            self._deliver(entry)
            if self._ended or now >= self._deadline:
                return False
        return not self._closing or (bool(order) and time.monotonic() < self._deadline)

    def _deliver(self, entry: Recorded) -> None:
        if self._dropped and not self._overflow_logged:
            self._overflow_logged = True
            logger.warning(
                "agentcgroup: records are dropped: the observer %s is slower than the calls and "
                "%d records wait for it",
                self.observer.name,
                QUEUE_SIZE,
            )
        try:
            record = entry.record
        except Exception:
            logger.exception("agentcgroup: the record of a call could not be made")
            return
        self._attempt("on_record", self.observer.on_record, record)

    def _attempt(self, name: str, method: Callable[..., None], *args: CallRecord) -> None:
        """Call a method of the observer; count a fault when it raises, whatever it raises."""
        if self._ended and method is not self._close:
            return
        try:
            method(*args)
        except BaseException:  # SystemExit and KeyboardInterrupt would end the thread
            in_a_row = self._faults_in_a_row.get(name, 0) + 1
            self._faults_in_a_row[name] = in_a_row
            self._faults += 1
            if in_a_row == 1:
                logger.exception(
                    "agentcgroup: %s of the observer %s failed", name, self.observer.name
                )
            if in_a_row >= _FAULTS_IN_A_ROW or self._faults >= _FAULTS:
                self._switch_off(in_a_row)
        else:
            self._faults_in_a_row[name] = 0

    def _switch_off(self, in_a_row: int) -> None:
        if self._ended:
            return
        self._ended = True
        self._remove(self)
        logger.error(
            "agentcgroup: the observer %s is switched off after %d faults, the last %d in a row",
            self.observer.name,
            self._faults,
            in_a_row,
        )
