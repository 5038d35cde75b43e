"""Finds waits that go around the clock seam while a fake clock is installed.

Product code must wait through `holdfast.runtime.clock`. A real sleep inside a test with a fake
clock would make the test slow at best and hang at worst, so it is an error that names the line.
Only calls that come from Holdfast's own modules count: the code under test may do as it likes.
"""

from __future__ import annotations

import asyncio
import functools
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class RealSleep(AssertionError):
    """Holdfast's own code waited in real time although a fake clock is installed."""


def _culprit(name: str) -> str | None:
    """Return where Holdfast's code called the patched function; None if somebody else did.

    The code must name the function: a policy that is given `time.sleep` to call names it not.
    """
    frame = sys._getframe(2)  # noqa: SLF001 - the caller of the patched function
    module = str(frame.f_globals.get("__name__", ""))
    if not module.startswith("holdfast.") or module.startswith("holdfast.testing"):
        return None
    if name.rpartition(".")[2] not in frame.f_code.co_names:
        return None
    return f"{module}, line {frame.f_lineno}"


@contextmanager
def forbidden(found: list[str]) -> Iterator[None]:
    """Refuse real waits of Holdfast's modules inside the block, and note them in `found`."""

    def refuse(what: str, seconds: float, where: str) -> RealSleep:
        text = f"{what}({seconds!r}) in {where}: a real sleep under a fake clock; "
        found.append(text + "use holdfast.runtime.clock")
        return RealSleep(found[-1])

    def guard(original: Callable[..., Any], name: str, timeout_at: int) -> Callable[..., Any]:
        @functools.wraps(original)
        def guarded(*args: Any, **options: Any) -> Any:  # noqa: ANN401 - of any waiting function
            timeout = args[timeout_at] if len(args) > timeout_at else options.get("timeout")
            if timeout:
                where = _culprit(name)
                if where is not None:
                    raise refuse(name, timeout, where)
            return original(*args, **options)

        return guarded

    originals = (time.sleep, asyncio.sleep, threading.Event.wait)  # noqa: TID251 - guarded here
    time.sleep = guard(originals[0], "time.sleep", 0)  # noqa: TID251
    asyncio.sleep = guard(originals[1], "asyncio.sleep", 0)
    threading.Event.wait = guard(originals[2], "Event.wait", 1)  # type: ignore[method-assign]  # put back below
    try:
        yield
    finally:
        time.sleep, asyncio.sleep, threading.Event.wait = originals  # type: ignore[method-assign]  # noqa: TID251
