"""One answer on its way to the client: what of it is held, when that ends, how it is passed on.

    held      a small answer until it is whole, so that one that breaks can be fetched elsewhere;
              the beginning of a stream, until there is content in it
    passed    what is larger, or a stream: from then on it is this answer or none

The head is rewritten once. A body in chunks keeps its framing, but for the end; a stream of events
is framed anew, so that an event of ours may follow if it breaks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.gateway import sse
from holdfast.gateway.headers import response_head
from holdfast.gateway.refusals import codes_in, looks_like_error

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from holdfast.gateway.client import Client
    from holdfast.gateway.sse import Meaning
    from holdfast.wire.requests import RequestHead
    from holdfast.wire.responses import ResponseHead

SSE = b"text/event-stream"
PASSING = frozenset(
    {
        SSE,
        b"application/x-ndjson",
        b"application/ndjson",
        b"application/jsonl",
        b"application/x-jsonlines",
        b"application/json-seq",
        b"application/vnd.amazon.eventstream",
    }
)
"""Media types of streams: they are never held for their size."""


def keeps_framing(request: RequestHead, head: ResponseHead) -> bool:
    """Say whether a chunked answer keeps its framing: not where we frame it anew."""
    return bool(request.minor) and head.media_type != SSE


class Passage:
    """The answer of one attempt, once its head is there.

    head: of the answer.  size: bytes that are held.  watched: it is a stream whose beginning is
    being read.  is_stream: it is never held for its size.  is_json: it is one value, which says
    nothing before it is whole.
    """

    __slots__ = (
        "_client",
        "_cutter",
        "_held",
        "_request",
        "_via",
        "_watch",
        "head",
        "is_json",
        "is_stream",
        "size",
        "watched",
    )

    def __init__(
        self, client: Client, request: RequestHead, head: ResponseHead, via: bytes
    ) -> None:
        self._client = client
        self._request = request
        self._via = via
        self._held: list[bytes] = []
        self._watch: sse.Watch | None = None
        self._cutter: sse.Cutter | None = None
        self.head = head
        self.size = 0
        self.watched = False
        self.is_stream = head.unbuffered or head.media_type in PASSING
        self.is_json = head.media_type == b"application/json"

    def watch(self, profile: str, *, hold: bool) -> None:
        """Read the events of a stream. hold: until there is content."""
        if self.head.media_type == SSE and not self._coding:
            self._cutter = sse.Cutter()
            self._watch = sse.Watch(profile)
            self.watched = hold and self.head.status == 200

    def hold(self, pieces: list[bytes]) -> Meaning | None:
        """Keep what came; return what the beginning of a stream means, once that is clear."""
        self._held += pieces
        self.size += sum(map(len, pieces))
        if self._watch is not None and self.watched:
            return self._watch.begin(b"".join(pieces))
        if self._watch is not None:
            self._watch.passed(b"".join(pieces))
        return None

    @property
    def error(self) -> Mapping[str, Any]:
        """What the error said that a stream began with."""
        return self._watch.error if self._watch is not None else {}

    @property
    def has_ended(self) -> bool:
        """Whether what has come is whole, for what is known of its kind."""
        return self._watch is None or self._watch.ended or self.head.status != 200

    def may_be_error(self, profile: str) -> bool:
        """Say whether an answer that says it is good looks like an error."""
        if not self.is_json or profile == "generic" or not self._held:
            return False
        return looks_like_error(self._held[0] if len(self._held) == 1 else b"".join(self._held[:3]))

    def codes(self) -> frozenset[str]:
        """Return the codes of the error in what is held."""
        framed = self.head.chunked and keeps_framing(self._request, self.head)
        return codes_in(self.head, b"".join(self._held), framed=framed)

    def refuse(self, *, come_back: int | None, final: bool) -> None:
        """Say in the head what follows from giving up.

        come_back: seconds for a Retry-After; None leaves what there is.
        final: asking again at once is of no use, as that has been done.
        """
        status, fields = self.head.status, self.head.fields
        if status in {429, 503, 529}:
            if come_back is None and not any(name.lower() == b"retry-after" for name, _ in fields):
                come_back = 1
            if come_back is not None:
                fields = [one for one in fields if one[0].lower() != b"retry-after"]
                fields.append((b"Retry-After", b"%d" % come_back))
        if final:
            fields = [one for one in fields if one[0].lower() != b"x-should-retry"]
            fields.append((b"x-should-retry", b"false"))
        self.head.fields = fields

    @property
    def _coding(self) -> bytes:
        found = (v for n, v in self.head.fields if n.lower() == b"content-encoding")
        return next(found, b"").lower().replace(b"identity", b"")

    def commit(self, *, whole: bool, added: bytes) -> None:
        """Give the client the head and what was held. whole: all of it.  added: lines of ours."""
        held, self._held = self._held, []
        self._give_head(whole=whole, added=added)
        self.watched = False
        self._give(held)

    def pass_on(self, pieces: list[bytes]) -> None:
        """Give the client what came."""
        if self._watch is not None:
            for piece in pieces:
                self._watch.passed(piece)
        self._give(pieces)

    @property
    def parts(self) -> tuple[sse.Cutter, sse.Watch] | None:
        """What cuts and reads it, if it is a stream of events that gets chunks of ours."""
        if self._cutter is None or self._watch is None or not self._client.chunked:
            return None
        return self._cutter, self._watch

    def end(self) -> None:
        """Give the client the end."""
        if self._cutter is not None and self._cutter.held:
            self._client.give([self._cutter.held])
        self._client.end_body()

    def end_with(self, event: bytes) -> bool:
        """End a stream of events with one of ours; False if this is none, or it is not at an end.

        What has come of an event that is not whole is dropped.
        """
        if self._cutter is None or not self._cutter.at_boundary:
            return False
        self._client.give([event])
        self._client.end_body()
        return True

    def _give(self, pieces: list[bytes]) -> None:
        if self._cutter is not None and pieces:
            data = self._cutter.feed(b"".join(pieces))
            pieces = [data] if data else []
        if pieces:
            self._client.give(pieces)

    def _give_head(self, *, whole: bool, added: bytes) -> None:
        request, head, client = self._request, self.head, self._client
        framed = head.chunked and keeps_framing(request, head)
        bodyless = request.method == b"HEAD" or head.status in {204, 304}
        length: int | None = None
        if bodyless:
            length = _length_of(head)
        elif whole and not framed:
            length = self.size
        elif not head.chunked and self._cutter is None:
            length = head.length  # a stream of events gets chunks: one of ours may have to follow
        chunked = not bodyless and (framed or (length is None and bool(request.minor)))
        close = client.closes(request, ends=length is None and not chunked and not bodyless)
        client.write(
            response_head(
                head,
                length=None if chunked else length,
                chunked=chunked,
                close=close,
                via=self._via,
                added=added,
            )
        )
        client.chunked = chunked and not framed
        client.terminator = b"0\r\n\r\n" if chunked else b""


def _length_of(head: ResponseHead) -> int | None:
    """Return the length that a bodyless answer tells of the body it stands for."""
    for name, value in head.fields:
        if name.lower() == b"content-length" and value.isdigit():
            return int(value)
    return None
