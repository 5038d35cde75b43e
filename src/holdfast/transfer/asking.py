"""From a question to an answer: the request, where it redirects, and who vouches for us."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from holdfast.transfer.answers import Action, Decision, Question
from holdfast.transfer.failures import Reason, TransferFailed, permanent
from holdfast.transfer.mirrors import How
from holdfast.transfer.plane import Plane, Received, Request
from holdfast.transfer.validators import Rung, conditions, linked_etag
from holdfast.wire.urls import BadUrl, Url, is_cross_site, redirected

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.transfer.sink import Sink, Stream
    from holdfast.transfer.streams import Streams
    from holdfast.transfer.wanted import Wanted
    from holdfast.wire.addresses import Reach
    from holdfast.wire.cancel import Cancel

MAX_REDIRECTS = 10
_TARGET_GONE = frozenset({401, 403, 404, 410})
"""What a redirect's target says when it is not, or not any more, where the object is."""


class Asking:
    """Asks for an object, on behalf of all its streams."""

    def __init__(self, wanted: Wanted, plane: Plane, streams: Streams) -> None:
        self.wanted = wanted
        self._plane = plane
        self._streams = streams

    def follow(
        self, sink: Sink, cancel: Cancel, size: int | None, *, joins: bool
    ) -> tuple[Received, Decision | None]:
        """Do the exchange of `sink` at the original address and go where it redirects.

        Each attempt begins at the original: a target that was signed for some minutes must
        be asked for anew. So does one more try after a target refused what it had served before.

        size: of the object, if it is known.  joins: bytes of it are there already.
        """
        first = url = sink.stream.pick.url
        asked = sink.question
        reach = self.wanted.reach
        seen = {url.full()}
        renewed = again = False
        while True:
            request = self._request(url, sink.question, sink.stream, size, reach)
            with self._streams.flow(sink.stream, cancel) as flow:
                received = self._plane.fetch(request, sink, flow.cancel)
                flow.ended(received, resumed=joins)
            decision = sink.decision
            if decision is None or decision.action is not Action.REDIRECT:
                if not renewed and self._is_worth_asking_again(url, received, sink):
                    renewed = True
                    sink = sink.again(sink.question)
                    continue
                refused = received.head is not None and received.head.status in _TARGET_GONE
                if refused and not again and url != first and joins:
                    again, url, reach, seen = True, first, self.wanted.reach, {first.full()}
                    sink = sink.again(asked)
                    continue
                return received, decision
            url, reach = self._target(url, decision), reach.after(received.peer)
            if url.full() in seen or len(seen) > MAX_REDIRECTS:
                kind = "in a circle" if url.full() in seen else f"more than {MAX_REDIRECTS} times"
                text = f"the server redirects {kind}"
                raise TransferFailed(Reason.REDIRECTS, text, permanent("redirects"))
            seen.add(url.full())
            question = sink.question
            cross = question.cross_site or is_cross_site(first, url)
            linked = linked_etag(decision.facts.head) or question.linked
            sink = sink.again(replace(question, cross_site=cross, linked=linked))

    def _is_worth_asking_again(self, url: Url, received: Received, sink: Sink) -> bool:
        """Whether whoever vouches for us can do it better, now that it was refused."""
        access, head = self.wanted.access, received.head
        if access is None or head is None or sink.refusal is None or received.fault is not None:
            return False
        return url.origin == self.wanted.url.origin and access.refused(head, bytes(sink.refusal))

    @staticmethod
    def _target(url: Url, decision: Decision) -> Url:
        try:
            return redirected(url, decision.facts.head.headers["location"])
        except BadUrl as error:
            text = f"a redirect that is not followed: {error}"
            raise TransferFailed(Reason.REDIRECTS, text, permanent("redirects")) from None

    def _request(
        self, url: Url, question: Question, stream: Stream, size: int | None, reach: Reach
    ) -> Request:
        pinned = question.pinned
        if question.rung is Rung.VERSION and pinned is not None and url == self.wanted.url:
            url = url.with_parameter("versionId", pinned.version)
        # Headers of the caller may hold credentials, so they stay within the origin.
        own: Mapping[str, str] = {}
        if url.origin == self.wanted.url.origin:
            access = self.wanted.access
            own = {**self.wanted.headers, **(access.headers(url) if access else {})}
        end = None if stream.end in {None, size} and not question.ranged else stream.end
        added = conditions(pinned, question.rung, stream.at, end) if pinned else {}
        if stream.pick.how is How.BORROW:
            added = {"Range": f"bytes={question.start}-{'' if end is None else end - 1}"}
        if question.linked:
            # The redirect has vouched; where it leads, our ETag is unknown.
            added = {name: value for name, value in added.items() if name == "Range"}
        if question.listed and pinned is not None and pinned.has_strong_etag:
            added = {"If-Match": pinned.etag}  # the object that was listed, or a word that it went
        return Request(url, {**own, **added}, self.wanted.timeouts, reach)
