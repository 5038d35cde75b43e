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
    from holdfast.runtime.wheel import Due
    from holdfast.wire.responses import Answer

_CHUNK = re.compile(rb"([1-9a-f][0-9a-f]{0,6})\r\n")
"""The line of a chunk as we write it."""


class Relay:
    """Takes what comes on the connection of an attempt whose answer is a stream of events.

    answer, cutter, watch: what reads it otherwise.  limits: whose limit each piece puts off.
    """

    __slots__ = (
        "_answer",
        "_attempt",
        "_client",
        "_cutter",
        "_deadline",
        "_idle",
        "_is_between",
        "_limits",
        "_watch",
        "_wheel",
    )

    def __init__(
        self, attempt: Attempt, answer: Answer, cutter: Cutter, watch: Watch, limits: Due
    ) -> None:
        request = attempt.request
        self._attempt = attempt
        self._answer = answer
        self._cutter = cutter
        self._watch = watch
        self._client = request.client
        self._wheel = request.cluster.wheel
        self._limits = limits
        self._idle = attempt.idle_timeout
        self._deadline = request.deadline
        self._look()

    def _look(self) -> None:
        """See whether the next byte begins a chunk and an event; a chunk that passes keeps it."""
        self._is_between = self._answer.is_between_chunks and self._cutter.is_empty

    def take(self, data: bytes) -> None:
        """Give the client one chunk as it came, if `data` is that, whole, and ends an event."""
        found = _CHUNK.match(data) if self._is_between else None
        if (
            found is None
            or len(data) - found.end() - 2 != int(found[1], 16)
            or not data.endswith(b"\n\n\r\n")
        ):
            self._attempt.take(data)
            self._look()
            return
        if not self._watch.ended:
            self._watch.passed_whole(data)
        client = self._client
        client.pass_on(data)
        if not client.paused:
            self._wheel.set(self._limits, min(clock.monotonic() + self._idle, self._deadline))

    def broke(self, error: Exception | None) -> None:
        """Take note that the connection has ended."""
        self._attempt.broke(error)
