"""The synchronous face: a gateway on an event loop of its own, on a thread of its own.

It is for programs, tests and notebooks that have no loop:

    with hf.Gateway(endpoints=[...], listen="127.0.0.1:0") as gateway:
        print(gateway.url)
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Self, TypeVar

from holdfast.runtime.loops import new_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_T = TypeVar("_T")


class Background:
    """What `with` needs, for a class that has `async with`."""

    _loop: asyncio.AbstractEventLoop | None = None
    _thread: threading.Thread | None = None
    _ended: Future[None]
    _end: asyncio.Event

    async def __aenter__(self) -> Self:
        raise NotImplementedError

    async def __aexit__(self, *exc: object) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        if self._thread is not None:
            raise RuntimeError(f"{type(self).__name__}: it is running already")
        ready: Future[None] = Future()
        self._ended = Future()
        self._thread = threading.Thread(
            target=self._run, args=(ready,), name="holdfast-gateway", daemon=True
        )
        self._thread.start()
        try:
            ready.result()
        except BaseException:  # it could not start, or Ctrl-C came while it did
            if not ready.cancel():
                self._stop()
            self._join()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop()
        self._join()
        self._ended.result()

    def _stop(self) -> None:
        loop = self._loop
        if loop is not None:
            loop.call_soon_threadsafe(self._end.set)

    def _join(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    def _run(self, ready: Future[None]) -> None:
        try:
            with asyncio.Runner(loop_factory=new_loop) as runner:
                runner.run(self._main(ready))
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            (self._ended if ready.done() else ready).set_exception(error)
        else:
            self._ended.set_result(None)

    async def _main(self, ready: Future[None]) -> None:
        self._end = asyncio.Event()
        async with self:
            if not ready.set_running_or_notify_cancel():
                return  # nobody waits any more
            self._loop = asyncio.get_running_loop()
            ready.set_result(None)
            try:
                await self._end.wait()
            finally:
                self._loop = None

    def wait(self, work: Coroutine[Any, Any, _T], timeout: float | None = None) -> _T:
        """Run one of its coroutines on its loop, and return the result: `gw.wait(gw.drain(5))`.

        For the block of `with`. timeout: seconds, then TimeoutError.
        """
        loop = self._loop
        if loop is None:
            work.close()
            raise RuntimeError(f"{type(self).__name__}: it does not run in the background")
        return asyncio.run_coroutine_threadsafe(work, loop).result(timeout)

    def on_loop(self, look: Callable[[], _T]) -> _T:
        """Return what `look` finds, on the thread of the loop, where nothing changes meanwhile."""
        if self._loop is None or threading.current_thread() is self._thread:
            return look()

        async def on_it() -> _T:
            return look()

        return self.wait(on_it())
