"""Redirects: how far they may lead, what goes along, and where a resume begins."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from transfer_origin import Bench, Origin, body_of

from holdfast.core.verdict import Kind, Sent, Verdict
from holdfast.downloads.failures import failure_of
from holdfast.transfer.failures import TransferFailed
from holdfast.transfer.plane import End, Received, Request, Sink
from holdfast.wire.addresses import AddressDenied, Reach, kind_of
from holdfast.wire.http1 import Framing, Head

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.wire.cancel import Cancel

PUBLIC, PRIVATE, PROXIED = "8.8.8.8", "10.0.0.1", ""


class Roads(Origin):
    """An origin behind redirects. roads: host -> where it redirects; peers: host -> its address.

    Like a real plane it tells the address that answered, and refuses one out of reach.
    """

    def __init__(self, roads: dict[str, str], peers: dict[str, str], **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type] # options of Origin
        self.roads = roads
        self.peers = peers

    def fetch(self, request: Request, sink: Sink, cancel: Cancel) -> Received:
        host = request.url.host
        peer = self.peers.get(host, PUBLIC)
        if peer and not request.reach.allows(kind_of(peer)):
            self.asked.append(request)
            error = AddressDenied(host, kind_of(peer))
            return Received(End.BROKEN, fault=error.verdict, text=str(error))
        if host in self.roads:
            self.asked.append(request)
            head = Head(302, {"location": self.roads[host]}, Framing.LENGTH, 0)
            sink.accept(head)
            return Received(End.UNREAD, head, peer=peer)
        return replace(super().fetch(request, sink, cancel), peer=peer)


def bench(origin: Origin, reach: Reach = Reach.TYPED, url: str = "http://a.example/x") -> Bench:
    made = Bench(origin, url)
    made.reach = reach
    return made


def hosts(origin: Origin) -> list[str]:
    return [request.url.host for request in origin.asked]


# -- how far ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peers", "reach", "allowed"),
    [
        ({"a.example": PUBLIC, "b.example": PUBLIC}, Reach.PUBLIC, True),
        ({"a.example": PUBLIC, "b.example": PRIVATE}, Reach.TYPED, False),
        ({"a.example": PUBLIC, "b.example": PRIVATE}, Reach.ANY, True),
        ({"a.example": PRIVATE, "b.example": PRIVATE}, Reach.TYPED, True),
        ({"a.example": PRIVATE, "b.example": "127.0.0.1"}, Reach.TYPED, True),
        ({"a.example": PRIVATE, "b.example": PUBLIC}, Reach.TYPED, True),
        ({"a.example": PROXIED, "b.example": PRIVATE}, Reach.TYPED, False),
        ({"a.example": PRIVATE, "b.example": "169.254.169.254"}, Reach.TYPED, False),
        ({"a.example": PUBLIC, "b.example": "fd00:ec2::254"}, Reach.ANY, False),
    ],
)
def test_a_redirect_may_lead_as_far_as_who_sent_it(peers, reach, allowed) -> None:
    origin = Roads({"a.example": "http://b.example/x"}, peers)
    made = bench(origin, reach)
    if allowed:
        made.run()
        assert made.content == body_of(1)
    else:
        with pytest.raises(TransferFailed) as caught:
            made.run()
        assert failure_of(caught.value, "a.example").code == "HF-1111"
        assert "b.example" in str(caught.value)
    assert hosts(origin) == ["a.example", "b.example"]


def test_a_private_address_is_not_reached_by_way_of_a_public_one() -> None:
    roads = {"a.example": "http://b.example/x", "b.example": "http://c.example/x"}
    peers = {"a.example": PRIVATE, "b.example": PUBLIC, "c.example": PRIVATE}
    with pytest.raises(TransferFailed):
        bench(Roads(roads, peers)).run()


def test_what_somebody_else_named_reaches_no_private_address() -> None:
    with pytest.raises(TransferFailed):
        bench(Roads({}, {"a.example": PRIVATE}), Reach.PUBLIC).run()


def test_each_attempt_has_its_reach_anew() -> None:
    roads = {"a.example": "http://b.example/x"}
    origin = Roads(roads, {"a.example": PRIVATE}, cuts=[300_000])
    bench(origin).run()
    assert [request.reach for request in origin.asked] == [Reach.TYPED] * 4


# -- what goes along -------------------------------------------------------------------------------


def test_credentials_and_headers_of_the_user_stay_within_the_origin() -> None:
    roads = {"a.example": "http://b.example/x", "b.example": "http://c.example/x"}
    origin = Roads(roads, {})
    made = bench(origin, url="http://user:word@a.example/x")
    made.run(headers={"Cookie": "secret", "X-Key": "secret", "Authorization": "secret"})
    first, *others = origin.asked
    assert first.url.credentials == "user:word"
    assert set(first.headers) >= {"Cookie", "X-Key", "Authorization"}
    for request in others:
        assert request.url.credentials == ""
        assert not {"Cookie", "X-Key", "Authorization"} & set(request.headers)


def test_another_port_is_another_origin() -> None:
    origin = Origin()
    origin.alter = lambda head, body, request: (
        (Head(302, {"location": "http://a.example:8080/x"}, Framing.LENGTH, 0), b"")
        if request.url.port == 80
        else (head, body)
    )
    bench(origin).run(headers={"Cookie": "secret"})
    assert "Cookie" not in origin.asked[1].headers


# -- where a resume begins -------------------------------------------------------------------------


class Signing(Roads):
    """Each redirect leads to a target with a new signature; an old one is refused.

    stale: exchanges of the first address that give a signature which has run out already.
    """

    def __init__(self, status: int, stale: set[int], **options: object) -> None:
        super().__init__({}, {}, **options)
        self.status = status
        self.stale = stale
        self.given = 0

    def fetch(self, request: Request, sink: Sink, cancel: Cancel) -> Received:
        if request.url.host == "a.example":
            self.given += 1
            self.roads = {"a.example": f"http://cdn.example/x?sig={self.given}"}
        elif int(request.url.query.removeprefix("sig=")) in self.stale:
            self.asked.append(request)
            head = Head(self.status, {}, Framing.LENGTH, 0)
            sink.accept(head)
            return Received(End.UNREAD, head)
        return super().fetch(request, sink, cancel)


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_resume_begins_at_the_first_address_when_the_target_refuses(status: int) -> None:
    origin = Signing(status, {2}, cuts=[300_000])
    made = bench(origin)
    made.run(attempts=2)
    assert made.content == body_of(1)
    assert hosts(origin) == ["a.example", "cdn.example"] * 3
    assert origin.served == len(body_of(1))


def test_a_target_that_refuses_twice_has_refused() -> None:
    origin = Signing(403, {2, 3, 4, 5}, cuts=[300_000])
    made = bench(origin)
    with pytest.raises(TransferFailed) as caught:
        made.run()
    assert caught.value.status == 403
    assert hosts(origin).count("a.example") == 3
    assert made.kept == 300_000


def test_a_target_that_refuses_at_first_contact_is_asked_once() -> None:
    origin = Signing(404, {1, 2, 3})
    with pytest.raises(TransferFailed):
        bench(origin).run()
    assert hosts(origin) == ["a.example", "cdn.example"]


def test_another_status_of_the_target_is_what_it_says() -> None:
    origin = Signing(451, {2, 3}, cuts=[300_000])
    with pytest.raises(TransferFailed):
        bench(origin).run()
    assert hosts(origin).count("a.example") == 2


def test_a_denied_address_is_not_asked_again() -> None:
    origin = Roads({"a.example": "http://b.example/x"}, {"b.example": PRIVATE})
    with pytest.raises(TransferFailed) as caught:
        bench(origin).run(attempts=8)
    assert len(origin.asked) == 2
    verdict: Verdict = caught.value.verdict
    assert (verdict.kind, verdict.sent) == (Kind.PERMANENT, Sent.NO)


def _moved(to: Callable[[Request], str]) -> Origin:
    origin = Origin()
    origin.alter = lambda _, __, request: (Head(302, {"location": to(request)}), b"")
    return origin


def test_a_circle_of_two_is_seen() -> None:
    origin = _moved(lambda r: f"http://{'b' if r.url.host == 'a.example' else 'a'}.example/x")
    with pytest.raises(TransferFailed, match="in a circle"):
        bench(origin).run()
    assert len(origin.asked) == 2
