"""How the tokens of a stream pass: from an endpoint's connection to the client, as they came.

Most of a stream of events is chunks that hold whole events. Framed anew, such a chunk would have
the very same bytes, so it is looked at for signs of the stream's end, and written. Whatever is
none of these is read by the attempt, as every answer is.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from holdfast.runtime.clock import clock

if TYPE_CHECKING:
    from holdfast.gateway.attempt import Attempt
    from holdfast.gateway.sse import Cutter, Watch
    from holdfast.wire.responses import Answer

_CHUNK = re.compile(rb"([1-9a-f][0-9a-f]{0,6})\r\n")
"""The line of a chunk as we write it."""


class Relay:
    """Takes what comes on the connection of an attempt whose answer is a stream of events.

    answer, cutter, watch: what reads it otherwise.
    heard_at: when the last piece passed, monotonic.

    A thousand streams have a thousand times the memory, and what is not in the processor's cache
    costs more than what is done with it. So a piece that passes touches this object and a
    transport, and what others want to know is told to them by `tell`.
    """

    __slots__ = (
        "_answer",
        "_attempt",
        "_client",
        "_cutter",
        "_hints",
        "_is_between",
        "_passed",
        "_watch",
        "_write",
        "heard_at",
    )

    def __init__(self, attempt: Attempt, answer: Answer, cutter: Cutter, watch: Watch) -> None:
        self._attempt = attempt
        self._answer = answer
        self._cutter = cutter
        self._watch = watch
        self._client = attempt.request.client
        self._write = self._client.transport.write
        self._passed = 0  # bytes that the client's count has not
        self.heard_at = clock.monotonic()
        self._look()

    def _look(self) -> None:
        """See whether the next byte begins a chunk and an event; a chunk that passes keeps it."""
        self._is_between = self._answer.is_between_chunks and self._cutter.is_empty
        self._hints = self._watch.hints
        if self._is_between:
            self._watch.begin_event()

    def take(self, data: bytes) -> None:
        """Give the client one chunk as it came, if `data` is that, whole, and ends an event."""
        found = _CHUNK.match(data) if self._is_between else None
        if (
            found is None
            or len(data) - found.end() - 2 != int(found[1], 16)
            or not data.endswith(b"\n\n\r\n")
        ):
            self.tell()
            self._attempt.take(data)
            self._look()
            return
        for hint in self._hints:
            if hint in data:
                self._watch.passed(data)
                self._hints = self._watch.hints
                break
        self.heard_at = clock.monotonic()
        self._passed += len(data)
        self._write(data)

    def tell(self) -> None:
        """Let the client's connection count what has passed."""
        self._client.count(self._passed)
        self._passed = 0

    def broke(self, error: Exception | None) -> None:
        """Take note that the connection has ended."""
        self._attempt.broke(error)
