"""What an adapter may be told besides its policy."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.core.checks import at_least, one_of, whole
from holdfast.core.tables.types import provider_for

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options that all adapters share.

    provider: name of a table of codes in error bodies ("anthropic", "kling", ...), or None.
    replay_reused: what is sent again on a fresh connection, without counting as an attempt,
        when a kept-alive connection breaks before any byte of the answer: "idempotent"
        requests, "any", or "never".
    buffer: bytes; answers with a Content-Length up to this are read inside the attempt, so
        that a cut in the middle is retried. Event streams never are. 0: none.
    replay_buffer: bytes of a request body given as an iterator that are kept so that it can
        be sent again. Default 0: an iterator is sent once.
    max_decoded: bytes that a body may have after decompression; None: no limit of its own.
    max_ratio: how many times its compressed size a body may grow, once it is past 1 MiB.
    """

    provider: str | None = None
    replay_reused: str = "idempotent"
    buffer: int = MIB
    replay_buffer: int = 0
    max_decoded: int | None = None
    max_ratio: float = 100.0

    def __post_init__(self) -> None:
        one_of("Options", "replay_reused", self.replay_reused, ("idempotent", "any", "never"))
        whole("Options", "buffer", self.buffer, 0)
        whole("Options", "replay_buffer", self.replay_buffer, 0)
        at_least("Options", "max_ratio", self.max_ratio, 1)
        if self.max_decoded is not None:
            whole("Options", "max_decoded", self.max_decoded, 0)
        if self.provider is not None:
            provider_for(self.provider)  # ValueError names the ones that exist
