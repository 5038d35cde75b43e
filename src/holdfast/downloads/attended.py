"""Blocking work that ends when it is asked to, also by Ctrl-C or from a signal handler."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar

from holdfast.runtime.clock import clock
from holdfast.transfer.failures import Interrupted
from holdfast.wire.cancel import Cancel

if TYPE_CHECKING:
    from collections.abc import Callable

LOOK_EVERY = 0.1
GRACE = 1.5
"""Seconds that a stop waits: a thread may sit in the resolver, and has nothing to lose there."""

T = TypeVar("T")


def attended(work: Callable[[Cancel], T], *, stopped: Callable[[], bool]) -> T:
    """Return what `work` returns, or raise what it raises; it runs on a thread of its own.

    stopped: asked ten times a second; then the work's `Cancel` is set, on this thread. A signal
    handler cannot do that itself: it may have interrupted whoever holds the lock.
    Raises Interrupted if the work does not end within `GRACE`, and KeyboardInterrupt again.
    """
    cancel, over = Cancel(), threading.Event()
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work(cancel))
        except BaseException as error:  # noqa: BLE001 - raised again, on the thread that waits
            errors.append(error)
        finally:
            over.set()

    threading.Thread(target=run, name="holdfast-list", daemon=True).start()
    try:
        while not clock.wait(over, LOOK_EVERY):
            if stopped():
                cancel.set()
                clock.wait(over, GRACE)
                break
    except KeyboardInterrupt:
        cancel.set()
        clock.wait(over, GRACE)
        raise
    if errors:
        raise errors[0]
    if not results:
        raise Interrupted
    return results[0]
