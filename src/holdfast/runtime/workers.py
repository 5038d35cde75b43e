"""Worker threads for synchronous calls that must be left behind when their time is over.

Python cannot interrupt a thread that hangs in a system call. So a limited call runs on a
thread of ours; at the limit the caller goes on, the thread finishes whenever it does and its
result is dropped. Threads that hang are counted: at `MOST` no more calls are taken.
"""

from __future__ import annotations

import threading
from collections import deque
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from holdfast.core.errors import BulkheadFull
from holdfast.runtime.clock import clock

if TYPE_CHECKING:
    from collections.abc import Callable

MOST = 64
"""Threads at most, busy and left behind together."""

IDLE_SECONDS = 10.0
"""A thread without work for so long ends."""


class _Job:
    __slots__ = ("_call", "done", "error", "value")

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call: Callable[[], Any] | None = call
        self.done = threading.Event()
        self.value: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        call, self._call = self._call, None
        assert call is not None
        try:
            self.value = call()
        except BaseException as error:
            self.error = error


class _Worker(threading.Thread):
    def __init__(self, pool: Workers) -> None:
        super().__init__(name="holdfast-worker", daemon=True)
        self._pool = pool
        self._given = threading.Semaphore(0)
        self._job: _Job | None = None

    def give(self, job: _Job) -> None:
        self._job = job
        self._given.release()

    def run(self) -> None:
        # The idle wait is real time on purpose: a simulated clock must not end real threads.
        while self._given.acquire(timeout=IDLE_SECONDS) or not self._pool.retire(self):
            job, self._job = self._job, None
            if job is not None:
                job.run()
                # Parked first: a caller that comes back at once finds this thread idle.
                self._pool.park(self)
                job.done.set()
                del job  # the value is the caller's, not ours to keep alive while idle


class Workers:
    """A pool that starts a thread when none is idle, up to `most`."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._idle: deque[_Worker] = deque()
        self._alive = 0

    def run(self, call: Callable[[], Any], seconds: float) -> tuple[bool, Any]:
        """Run `call()` in a copy of this context; return (True, its value), or (False, None).

        False: it did not end within `seconds` and was left behind. Raises what the call
        raises, and BulkheadFull, with nothing run, if all threads are busy or hanging.
        """
        context = copy_context()
        job = _Job(lambda: context.run(call))
        self._take().give(job)
        if not clock.wait(job.done, seconds):
            return False, None
        error = job.error
        if error is not None:
            try:
                raise error
            finally:
                # Without this the error's traceback and this frame keep each other alive.
                job.error = error = None
        return True, job.value

    def park(self, worker: _Worker) -> None:
        """Take a worker back; the latest is used first, so that the others can retire."""
        with self._lock:
            self._idle.append(worker)

    def retire(self, worker: _Worker) -> bool:
        """Let an idle worker end, unless it was just given work."""
        with self._lock:
            if worker not in self._idle:
                return False
            self._idle.remove(worker)
            self._alive -= 1
            return True

    @property
    def busy(self) -> int:
        """How many threads run or hang."""
        with self._lock:
            return self._alive - len(self._idle)

    def _take(self) -> _Worker:
        with self._lock:
            if self._idle:
                return self._idle.pop()
            if self._alive >= self._most:
                raise BulkheadFull(
                    f"all {self._most} worker threads are busy or left hanging by calls that "
                    "outlived their limit: use timeouts of the client, or `interrupt=False`"
                )
            self._alive += 1
        worker = _Worker(self)
        worker.start()
        return worker


workers = Workers()
