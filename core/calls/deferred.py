"""Deferred jobs: one thread does, when calls pause, what no call waits for.

A job that runs beside a call takes the interpreter's lock and the kernel's cgroup lock away from
the call: each call in a loop took a quarter longer. So jobs wait until none has come for a moment.
A backlog of 64 jobs is done without a pause, because each job keeps a cgroup.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final

from agentcgroup.threads import Empty, Event, Lock, SimpleQueue, Thread, start_thread

__all__ = ["DeferredJobs"]

logger = logging.getLogger("agentcgroup")

#: Seconds without a new job after which the jobs are done: more than the Python code between two
#: calls in a loop takes, less than a model takes. After a longer call the pause is longer, by this
#: factor: the next call of a loop has ended by then.
_PAUSE: Final = 0.01
_LONGEST_PAUSE: Final = 0.1
_PAUSE_PER_CALL: Final = 1.25
#: Number of jobs from which on they are done without a pause.
_BACKLOG: Final = 64


class DeferredJobs:
    """Runs jobs one after the other, in order, on a daemon thread started at the first job.

    Attributes:
        hand_over: queues a job, or a tuple of a function and its arguments. This is one call of C
            code, so that no signal handler can raise before the job is queued.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], None] | tuple[Any, ...] | None] = SimpleQueue()
        self.hand_over: Callable[[Any], None] = self._jobs.put
        self._at_start: Callable[[], None] | None = None
        self._rested = 0.0  # when there was a pause, if no job comes before; by time.monotonic
        self._hurry = Event()
        self._thread: Thread | None = None
        self._lock = Lock()

    def put(self, job: Callable[[], None], took: float = 0.0) -> None:
        """Queue a job of a call that took `took` seconds; an exception in the job is logged."""
        pause = min(max(took * _PAUSE_PER_CALL, _PAUSE), _LONGEST_PAUSE)
        self._rested = time.monotonic() + pause
        self._jobs.put(job)
        if self._thread is None and not self._start():
            self._do_queued()

    def put_at_start(self, job: Callable[[], None]) -> None:
        """Have a job done once the thread runs, or at `close`; starts no thread."""
        self._at_start = job

    def busy(self) -> bool:
        """Return whether jobs wait."""
        return not self._jobs.empty()

    def drain(self, timeout: float | None = None) -> bool:
        """Do every job queued so far now; return False when `timeout` seconds passed first.

        Called from a job it returns at once: the job would wait for itself.
        """
        if self._thread is None and self.busy():  # handed over
            self._start()
        if self._thread is None or self._thread.is_current():
            return True
        done = Event()

        def drained() -> None:
            self._hurry.clear()
            done.set()

        self._hurry.set()
        self._jobs.put(drained)
        return done.wait(timeout)

    def close(self, timeout: float) -> None:
        """Do the queued jobs, then end the thread; give up after `timeout` seconds."""
        if self._thread is None and (self.busy() or self._at_start is not None):
            self._start()
        thread, self._thread = self._thread, None
        if thread is not None and not thread.is_current():
            self._hurry.set()
            self._jobs.put(None)
            thread.join(timeout)

    def _start(self) -> bool:
        """Start the thread; return False where the process can have no more threads."""
        with self._lock:
            try:
                if self._thread is None:
                    if (job := self._at_start) is not None:
                        self._at_start = None
                        self._jobs.put(job)
                    self._thread = start_thread(self._work, "deferred")
            except RuntimeError:
                return False
        return True

    def _do_queued(self) -> None:
        while True:
            try:
                job = self._jobs.get_nowait()
            except Empty:
                return
            if job is not None:
                self._do(job)

    def _work(self) -> None:
        job = self._jobs.get()
        while job is not None:
            self._await_pause()
            # All of them at once: in a row a job takes 40 us, alone between two calls 150.
            for _ in range(self._jobs.qsize()):
                self._do(job)
                if (job := self._jobs.get()) is None:
                    return
            self._do(job)
            job = self._jobs.get()

    def _do(self, job: Callable[[], None] | tuple[Any, ...]) -> None:
        try:
            if isinstance(job, tuple):
                job[0](*job[1:])
            else:
                job()
        except BaseException:  # SystemExit would end the thread silently
            logger.exception("agentcgroup: clearing up behind a call failed")

    def _await_pause(self) -> None:
        """Wait until no job has come for a moment, jobs are too many, or `drain` hurries."""
        while self._jobs.qsize() < _BACKLOG:
            pause = self._rested - time.monotonic()
            if pause <= 0 or self._hurry.wait(pause):
                return
