"""What a client gets of a request for which nothing more is done.

answered    an endpoint's answer was given, whole
given up    the last answer of an endpoint, or one of ours where there is none
cut short   an answer that broke after a part of it was given; it is never spliced
abandoned   nothing: the client is gone, and nobody is blamed
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from holdfast.gateway import errors, sse
from holdfast.gateway.ledger import REFUSED, UPSTREAM_ERROR, outcome_of
from holdfast.runtime.clock import clock

if TYPE_CHECKING:
    from holdfast.gateway.answering import Passage
    from holdfast.gateway.attempt import Attempt
    from holdfast.gateway.request import Request

_PASSES_LAST = frozenset({"HF-3101", "HF-3102", "HF-3104", "HF-3105", "HF-3106"})
"""Reasons to give up for which the last answer of an endpoint says more than one of ours."""


def give(request: Request, passage: Passage) -> str:
    """Give a whole answer; or a count of tokens of ours, where the endpoint has none.

    Returns the outcome, as all here do.
    """
    cluster, added = request.cluster, request.cluster.added(request)
    ours = cluster.counted_for(request, passage.head.status, added)
    if ours is None:
        passage.commit(whole=True, added=added)
        return end(request, passage)
    request.client.write(ours)
    request.status = int(ours[9:12])
    return outcome_of(request.status)


def end(request: Request, passage: Passage) -> str:
    """Give the end of an answer that was given so far."""
    passage.end()
    request.status = passage.head.status
    return outcome_of(request.status)


def give_up(request: Request, code: str, last: Attempt | None) -> str:
    """Pass the last answer on; only if there is none, one of ours.

    code: of the error.  last: the attempt whose answer that is.
    """
    cluster = request.cluster
    wait = cluster.soonest(clock.monotonic())
    final = cluster.is_repeated_path(request.head)
    passage = last.passage if last is not None and code in _PASSES_LAST else None
    if last is not None and passage is not None:
        come_back = max(1, math.ceil(wait)) if wait or code == "HF-3104" else None
        passage.refuse(come_back=come_back, final=final)
        request.pick = last.pick  # whose answer it is, whoever was asked since
        passage.commit(whole=True, added=cluster.added(request))
        end(request, passage)
        return UPSTREAM_ERROR
    sent = "no" if all(one.sent == "no" for one in request.told) else "maybe"
    status = errors.ERRORS[code].status
    retry_after = max(1.0, wait) if status in {429, 503} else None
    request.client.refuse(code, request, sent=sent, retry_after=retry_after, final=final)
    request.status = status
    cluster.ledger.refused(code)
    return REFUSED


def cut_short(request: Request, passage: Passage | None, reason: str) -> bool:
    """Say that the answer broke after a part of it was given; False if that cannot be said."""
    value = errors.body("HF-3108", request.id, reason=reason, sent="yes", attempts=request.told)
    return passage is not None and passage.end_with(sse.event("error", value))
