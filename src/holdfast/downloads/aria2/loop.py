"""One background thread with an event loop: all I/O of a client happens there.

Synchronous callers and callers on any loop hand work over; a slow service or disk then
delays this loop, and never theirs.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

STARTING = 10.0
"""Seconds in which a thread must have come up; a millisecond is usual."""


class BackgroundLoop:
    """An event loop in a daemon thread. It starts with its first work."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def running(self) -> bool:
        """Whether its thread was started and not ended."""
        return self._loop is not None and not self._closed

    def submit(self, work: Coroutine[object, object, T]) -> Future[T]:
        """Run `work` on the loop. Raises RuntimeError after `close`.

        It gets the context of the caller, deadlines included.
        """
        with self._lock:
            if self._closed:
                work.close()
                raise RuntimeError("this client is closed")
            loop = self._loop or self._start()
        return asyncio.run_coroutine_threadsafe(work, loop)

    async def run(self, work: Coroutine[object, object, T]) -> T:
        """Await `work` from another loop. To cancel this is to cancel `work`."""
        return await asyncio.wrap_future(self.submit(work))

    def _start(self) -> asyncio.AbstractEventLoop:
        ready: Future[asyncio.AbstractEventLoop] = Future()
        # An empty context: what lives as long as the thread must not keep the deadline of the
        # call that happened to start it.
        context = contextvars.Context()
        self._thread = threading.Thread(
            target=context.run, args=(_run, ready), name=self._name, daemon=True
        )
        self._thread.start()
        self._loop = ready.result(STARTING)
        return self._loop

    def close(self, last: Callable[[], Coroutine[object, object, None]] | None = None) -> None:
        """Run `last()` on the loop if it was started, then end loop and thread. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        try:
            if last is not None:
                asyncio.run_coroutine_threadsafe(last(), loop).result(STARTING)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            if thread is not threading.current_thread():
                thread.join(STARTING)


def _run(ready: Future[asyncio.AbstractEventLoop]) -> None:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.call_soon(ready.set_result, loop)
    try:
        loop.run_forever()
    finally:
        try:
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            if tasks:
                loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            asyncio.set_event_loop(None)
            loop.close()
