"""The response cases of llhttp, read by `wire.responses`: as strictly, and to the same bodies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.wire.responses import Answer
from holdfast.wire.strict import BadMessage
from llhttp_cases import load

if TYPE_CHECKING:
    from llhttp_cases import Case

TO_HEAD = {
    "Content-Length reset when no body is received": "llhttp is told to skip the body: our HEAD",
}
STRICTER = {
    "RTSP response": "another protocol",
    "ICE response": "another protocol",
    "HTTP version 0.9": "a version without framing",
    "HTTP 101 response with Upgrade and Content-Length header": "nobody asked for it",
    "HTTP 101 response with Upgrade and Transfer-Encoding header": "nobody asked for it",
    "Response starting with CRLF": "bytes before an answer belong to another one",
    "HTTP 304 with Content-Length": "an empty line between two answers: the same",
    "HTTP 100 first, then 400": "the same",
    "Should parse multiple events": "the same",
    "`chunked` before other transfer-encoding": "llhttp reads to the end of the connection",
    "multiple transfer-encoding where chunked is not the last one": "the same",
    "`chunkedchunked` transfer-encoding does not enable chunked enconding": "the same",
}
"""Accepted by llhttp, refused by us: why."""


def read(data: bytes, method: bytes, step: int) -> tuple[list[tuple[int, bytes]], str]:
    """Read all answers on a connection; return (status, content) of each, and what was wrong."""
    found: list[tuple[int, bytes]] = []
    answer, out = Answer(method, raw=lambda _: False), []
    at = 0
    try:
        while at < len(data):
            at += answer.feed(data[at : at + step], out)
            if answer.done:
                found.append((answer.head.status, b"".join(out)))
                if not answer.head.persists:
                    return found, "" if at == len(data) else "surplus"
                answer, out = Answer(method, raw=lambda _: False), []
    except BadMessage as bad:
        return found, bad.reason
    if answer.head is not None:
        answer.end()
        found.append((answer.head.status, b"".join(out)))
    return found, ""


def difference(case: Case) -> str:
    method = b"HEAD" if case.name in TO_HEAD else b"GET"
    found, wrong = read(case.data, method, len(case.data))
    if read(case.data, method, 1) != (found, wrong):
        return "another verdict when it comes byte by byte"
    if case.name in STRICTER:
        return "" if wrong else "no longer stricter"
    if "Connection: close" in case.error:
        return "" if wrong == "surplus" and len(found) == 1 else "read on beyond the end"
    if case.error:
        return "" if wrong or not found else f"accepted in spite of: {case.error}"
    if wrong:
        return f"refused: {wrong}"
    got = b"".join(content for _, content in found)
    return "" if got == case.content else f"another body: {got!r}"


def test_every_response_case_is_read_as_llhttp_reads_it_or_more_strictly(vectors):
    strict = [case for case in load(vectors) if case.kind == "response"]
    assert len(strict) >= 75
    assert {case.name for case in strict} >= set(STRICTER) | set(TO_HEAD)
    wrong = {case.title: difference(case) for case in strict if difference(case)}
    assert not wrong


def test_what_is_left_out_are_modes_of_llhttp_that_we_do_not_have(vectors):
    """Lenient ones; `finish`, a call of its own interface; and cases of its URL parser."""
    left = {case.kind for case in load(vectors)} - {"request", "response", "None"}
    assert all("-lenient-" in kind or kind.endswith("-finish") for kind in left)
