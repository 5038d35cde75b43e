"""Headers that are made for each request, and refusals that are read; versions that were listed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest
from transfer_origin import SIZE, Bench, Origin, body_of

import holdfast as hf
from holdfast.transfer.access import MAX_REFUSAL
from holdfast.transfer.failures import Reason, TransferFailed, permanent
from holdfast.transfer.object import ObjectTransfer
from holdfast.transfer.validators import Validators
from holdfast.transfer.wanted import Standing
from holdfast.wire.http1 import Framing, Head

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.transfer.plane import Request
    from holdfast.wire.urls import Url


@dataclass
class Porter:
    """Vouches with a number that rises; says of refusals what it was told to say."""

    again: bool = True
    made: list[str] = field(default_factory=list)
    read: list[bytes] = field(default_factory=list)

    def headers(self, url: Url) -> Mapping[str, str]:
        self.made.append(url.full())
        return {"Authorization": f"proof {len(self.made)}"}

    def refused(self, head: Head, body: bytes) -> bool:
        self.read.append(body)
        return self.again


class Guarded(Bench):
    """A bench whose object is asked for with a porter's word."""

    def __init__(self, origin: Origin, porter: Porter, *, streams: int = 1) -> None:
        super().__init__(origin, streams=streams)
        self.porter = porter

    def fetched(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made = ObjectTransfer.__init__

        def init(transfer, wanted, *args, **options):
            made(transfer, replace(wanted, access=self.porter), *args, **options)

        monkeypatch.setattr(ObjectTransfer, "__init__", init)
        self.run()


def refusing(times: int, body: bytes = b"<Error/>", status: int = 403):
    left = [times]

    def alter(head: Head, answer: bytes, request: Request) -> tuple[Head, bytes]:
        if left[0] == 0:
            return head, answer
        left[0] -= 1
        return Head(status, {}, Framing.LENGTH, len(body)), body

    return alter


def test_each_request_has_headers_of_its_own(monkeypatch) -> None:
    origin = Origin(cuts=[300_000, 300_000])
    bench = Guarded(origin, Porter())
    bench.fetched(monkeypatch)
    assert [request.headers["Authorization"] for request in origin.asked] == [
        "proof 1", "proof 2", "proof 3",
    ]  # fmt: skip
    assert bench.content == origin.body


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_refusal_is_read_and_asked_once_more(monkeypatch, status: int) -> None:
    origin = Origin(alter=refusing(1, b"why", status))
    porter = Porter()
    Guarded(origin, porter).fetched(monkeypatch)
    assert porter.read == [b"why"]
    assert len(origin.asked) == 2


def test_a_refusal_that_comes_again_is_the_end(monkeypatch) -> None:
    origin = Origin(alter=refusing(99))
    porter = Porter()
    with pytest.raises(TransferFailed) as caught:
        Guarded(origin, porter).fetched(monkeypatch)
    assert (caught.value.reason, caught.value.status) == (Reason.STATUS, 403)
    assert (len(origin.asked), len(porter.read)) == (2, 1)


def test_of_a_long_refusal_only_the_begin_is_read(monkeypatch) -> None:
    origin = Origin(alter=refusing(1, b"x" * (MAX_REFUSAL + 50_000)))
    porter = Porter(again=False)
    with pytest.raises(TransferFailed):
        Guarded(origin, porter).fetched(monkeypatch)
    assert [len(body) for body in porter.read] == [MAX_REFUSAL]


@pytest.mark.parametrize("status", [404, 500, 503])
def test_what_is_no_refusal_is_not_read(monkeypatch, status: int) -> None:
    origin = Origin(alter=refusing(1, b"why", status))
    porter = Porter()
    bench = Guarded(origin, porter)
    if status == 404:
        with pytest.raises(TransferFailed):
            bench.fetched(monkeypatch)
    else:
        bench.fetched(monkeypatch)
    assert porter.read == []


def test_a_refusal_in_the_middle_keeps_what_is_there(monkeypatch) -> None:
    origin = Origin(cuts=[300_000])
    alter = refusing(1)
    origin.alter = lambda head, body, request: (
        alter(head, body, request) if len(origin.asked) == 2 else (head, body)
    )
    bench = Guarded(origin, Porter())
    bench.fetched(monkeypatch)
    assert bench.ranges == ["", "bytes=300000-", "bytes=300000-"]
    assert bench.content == origin.body


def test_a_porter_that_gives_up_ends_it_in_its_words(monkeypatch) -> None:
    class Tired(Porter):
        def refused(self, head: Head, body: bytes) -> bool:
            raise TransferFailed(Reason.CREDENTIALS, "log in anew", permanent("credentials"))

    origin = Origin(alter=refusing(99))
    with pytest.raises(TransferFailed, match="log in anew"):
        Guarded(origin, Tired()).fetched(monkeypatch)
    assert len(origin.asked) == 1


# -- versions that were listed ---------------------------------------------------------------


def listed(origin: Origin, *, etag: str = "", size: int = SIZE, streams: int = 1) -> Bench:
    bench = Bench(origin, streams=streams)
    bench.standing = Standing(Validators(etag=etag or origin.tag, size=size), listed=True)
    return bench


def test_what_was_listed_is_asked_for_on_condition_and_without_a_range() -> None:
    origin = Origin(cuts=[300_000])
    bench = listed(origin)
    bench.run()
    first, second = origin.asked
    assert (first.headers.get("If-Match"), first.headers.get("Range")) == ('"v1"', None)
    assert second.headers["Range"] == "bytes=300000-"
    assert not bench.standing.listed
    assert (bench.standing.changes, bench.content) == (0, origin.body)


@pytest.mark.parametrize("heeds", [True, False])
@pytest.mark.parametrize("streams", [1, 4])
def test_a_version_that_is_gone_is_replaced_by_the_one_that_is_there(
    heeds, streams, monkeypatch
) -> None:
    monkeypatch.setattr("holdfast.transfer.extents.SPLIT_FROM", 256 * 1024)
    monkeypatch.setattr("holdfast.transfer.extents.EXTENT_SIZE", 128 * 1024)
    origin = Origin(body=body_of(7, SIZE + 5), version=7, if_match=heeds)
    bench = listed(origin, etag='"v1"', streams=streams)
    heard = []
    unsubscribe = hf.subscribe(heard.append)
    try:
        whole = bench.run()
    finally:
        unsubscribe()
    assert (whole.size, bench.content) == (SIZE + 5, origin.body)
    assert bench.standing.changes == 1
    declined = [event.reason for event in heard if type(event).__name__ == "ResumeDeclined"]
    wanted = "412, replaced since it was listed" if heeds else "200, other version"
    assert declined == [wanted]


def test_a_listing_without_etags_asks_without_condition_and_sees_another_size() -> None:
    origin = Origin()
    bench = listed(origin, etag="none")  # no ETag in the form of one: no condition
    bench.standing = Standing(Validators(size=SIZE), listed=True)
    bench.run()
    assert "If-Match" not in origin.asked[0].headers
    assert bench.standing.changes == 0
    other = listed(Origin(), size=5)
    other.standing = Standing(Validators(size=5), listed=True)
    assert other.run().size == SIZE
    assert other.standing.changes == 1


def test_an_empty_object_is_taken_on_an_answer_s_word_only() -> None:
    origin = Origin(body=b"")
    bench = listed(origin, size=0)
    assert bench.run().size == 0
    assert len(origin.asked) == 1
    grown = listed(Origin(), etag='"v0"', size=0)
    assert grown.run().size == SIZE


def test_three_versions_are_too_many_with_the_listed_one_among_them() -> None:
    origin = Origin(version=2, cuts=[300_000] * 9)
    origin.before = lambda n: origin.change() if n > 2 else None
    bench = listed(origin, etag='"v1"')
    with pytest.raises(TransferFailed) as caught:
        bench.run()
    assert caught.value.reason is Reason.CHANGING
