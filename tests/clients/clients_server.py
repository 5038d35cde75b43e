"""What the clients' tests share: a server by script, their events."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import holdfast as hf
from scripted import Scripted

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from scripted import Script


@contextmanager
def serving(script: Script, context: ssl.SSLContext | None = None) -> Iterator[Scripted]:
    with Scripted(script, context) as server:
        yield server


@contextmanager
def listening() -> Iterator[list[Any]]:
    """Collect the events of the block."""
    events: list[Any] = []
    stop = hf.subscribe(events.append)
    try:
        yield events
    finally:
        stop()


def attempts_of(events: list[Any]) -> list[Any]:
    return [event for event in events if type(event).__name__ == "Attempt"]
