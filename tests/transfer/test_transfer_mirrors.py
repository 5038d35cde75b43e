"""One object from several mirrors, each bad in its own way: the bytes are those promised."""

from __future__ import annotations

import base64
import hashlib
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transfer_origin import SIZE, Bench, Origin, body_of, sha256_of

import holdfast as hf
from holdfast.core.verdict import Kind, Sent, Verdict
from holdfast.transfer.failures import TransferFailed
from holdfast.transfer.plane import End, Received, Request, Sink
from holdfast.transfer.repair import Pieces
from holdfast.wire.cancel import Cancel
from holdfast.wire.http1 import Framing, Head
from holdfast.wire.urls import parse

if TYPE_CHECKING:
    from collections.abc import Callable

GOOD = body_of(1)
OLD = body_of(7)
REFUSED = Verdict(Kind.CONNECT, Sent.NO, "ECONNREFUSED")
LARGE = 20 << 20
LARGE_GOOD, LARGE_OLD = body_of(1, LARGE), body_of(7, LARGE)


@dataclass
class Mirror(Origin):
    """An origin that may be dead, or answer with a status of its own.

    dead: refuses connections.  status: of all answers.  page: answers HTML.
    """

    body: bytes = GOOD
    step: int = 100_000
    dead: bool = False
    status: int = 0
    page: bool = False
    asks: list[Request] = field(default_factory=list)

    def fetch(self, request: Request, sink: Sink, cancel: Cancel) -> Received:
        if self.dead:
            self.asks.append(request)
            return Received(End.BROKEN, fault=REFUSED, text="Connection refused")
        if self.status:
            self.asks.append(request)
            head = Head(self.status, {}, Framing.LENGTH, 0)
            sink.accept(head)
            return Received(End.UNREAD, head)
        return super().fetch(request, sink, cancel)

    @property
    def requests(self) -> int:
        return len(self.asked) + len(self.asks)


def html(head: Head, body: bytes, _: Request) -> tuple[Head, bytes]:
    page = b"<html>log in</html>"
    return Head(200, {"content-type": "text/html"}, Framing.LENGTH, len(page)), page


class Net:
    """Leads each host to its mirror. It is a `Plane`."""

    def __init__(self, *mirrors: Mirror) -> None:
        self.hosts = {f"m{n}.example": mirror for n, mirror in enumerate(mirrors)}
        self.asked: list[Request] = []
        self._lock = threading.Lock()

    def fetch(self, request: Request, sink: Sink, cancel: Cancel) -> Received:
        with self._lock:
            self.asked.append(request)
        return self.hosts[request.url.host].fetch(request, sink, cancel)

    @property
    def served(self) -> int:
        return sum(mirror.served for mirror in self.hosts.values())

    @property
    def order(self) -> list[str]:
        """The mirrors in the order asked, repetitions left out."""
        hosts = [request.url.host.partition(".")[0] for request in self.asked]
        return [host for n, host in enumerate(hosts) if n == 0 or hosts[n - 1] != host]


def bench(*mirrors: Mirror, streams: int = 1) -> Bench:
    net = Net(*mirrors)
    urls = [parse(f"http://{host}/data.nc") for host in net.hosts]
    made = Bench(net, str(urls[0].full()), streams=streams)  # type: ignore[arg-type] # a plane
    made.mirrors = tuple(urls[1:])
    return made


def net_of(made: Bench) -> Net:
    return made.plane  # type: ignore[return-value] # see `bench`


def failing(made: Bench, **options: object) -> TransferFailed:
    with pytest.raises(TransferFailed) as caught:
        made.run(**options)  # type: ignore[arg-type] # options of `run`
    return caught.value


# -- one of them is bad ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        lambda: Mirror(dead=True),
        lambda: Mirror(status=404),
        lambda: Mirror(status=403),
        lambda: Mirror(status=410),
        lambda: Mirror(status=503),
        lambda: Mirror(cuts=[0] * 9),
    ],
    ids=["dead", "404", "403", "410", "503", "cut"],
)
def test_the_next_mirror_is_asked_within_the_same_attempt(bad: Callable[[], Mirror]) -> None:
    made = bench(bad(), Mirror())
    made.run(attempts=1)
    assert made.content == GOOD
    assert net_of(made).order == ["m0", "m1"]
    assert len(made.failed) == 1
    assert made.hosts == ["m0.example"]


def test_a_turn_is_told_as_an_event() -> None:
    heard = []
    unsubscribe = hf.subscribe(heard.append)
    try:
        bench(Mirror(dead=True), Mirror()).run()
    finally:
        unsubscribe()
    turns = [(e.key, e.no, e.how) for e in heard if type(e).__name__ == "MirrorChosen"]
    assert turns == [("m1.example", 1, "fresh")]


def test_a_page_in_place_of_the_object_leads_to_the_next_mirror() -> None:
    made = bench(Mirror(alter=html), Mirror())
    made.run(attempts=1, size=SIZE)
    assert made.content == GOOD


def test_a_mirror_of_another_size_is_put_out() -> None:
    made = bench(Mirror(body=b"x" * 1000), Mirror())
    made.run(attempts=1, size=SIZE)
    assert made.content == GOOD
    assert made.failed == ["size"]


def test_a_promise_that_contradicts_the_users_puts_a_mirror_out() -> None:
    other = hashlib.sha256(OLD).digest()
    field_ = f"sha-256=:{base64.b64encode(other).decode()}:"
    made = bench(Mirror(body=OLD, headers={"repr-digest": field_}), Mirror())
    made.run(attempts=1, sha256=sha256_of(GOOD))
    assert made.content == GOOD
    assert net_of(made).hosts["m0.example"].served == 0


def test_headers_go_to_the_first_address_only() -> None:
    made = bench(Mirror(cuts=[0]), Mirror())
    made.run(headers={"Cookie": "secret"})
    first, second = net_of(made).asked
    assert first.headers["Cookie"] == "secret"
    assert "Cookie" not in second.headers


# -- joining bytes of two ------------------------------------------------------------------------


def test_equal_etags_are_joined() -> None:
    made = bench(Mirror(cuts=[600_000, 0, 0, 0]), Mirror())
    made.run(attempts=1)
    assert made.content == GOOD
    assert net_of(made).served == SIZE
    assert net_of(made).asked[-1].headers["If-Match"] == '"v1"'


def test_other_etags_are_not_joined_without_a_digest() -> None:
    """The other mirror has another version, and would be joined by its range alone."""
    made = bench(Mirror(cuts=[600_000, 0]), Mirror(body=OLD, version=7, if_match=False))
    made.run(attempts=3)
    assert made.content == GOOD
    assert made.failed.count("changing") == 1


def test_when_the_first_does_not_come_back_the_other_version_is_taken_whole() -> None:
    made = bench(Mirror(cuts=[600_000, *[0] * 40]), Mirror(body=OLD, version=7))
    made.run(attempts=8)
    assert made.content == OLD
    assert len(net_of(made).hosts["m0.example"].asked) == 3


def test_without_validators_a_switch_begins_anew() -> None:
    options = {"etag": False, "dated": False}
    made = bench(
        Mirror(cuts=[990_000, 60_000, 50_000], status=0, **options),
        Mirror(body=OLD, **options),
    )
    first = net_of(made).hosts["m0.example"]

    def die(n: int) -> None:
        first.dead = n >= 1

    first.before = die
    made.run(attempts=8)
    assert made.content == OLD
    assert net_of(made).served == 990_000 + SIZE


def test_with_a_digest_the_range_of_any_mirror_is_taken() -> None:
    made = bench(Mirror(cuts=[600_000], version=1), Mirror(version=2, body=GOOD))
    net_of(made).hosts["m0.example"].before = lambda n: setattr(
        net_of(made).hosts["m0.example"], "dead", True
    )
    whole = made.run(attempts=1, sha256=sha256_of(GOOD))
    assert made.content == GOOD
    assert whole.verified == "sha256"
    assert net_of(made).served == SIZE + 65536  # the overlap was compared
    assert net_of(made).asked[-1].headers == {"Range": f"bytes={600_000 - 65536}-{SIZE - 1}"}


def test_an_older_version_of_the_same_size_is_found_by_the_overlap() -> None:
    made = bench(Mirror(cuts=[600_000, 0, None]), Mirror(version=7, body=OLD))
    made.run(attempts=3, sha256=sha256_of(GOOD))
    assert made.content == GOOD
    assert net_of(made).served <= SIZE + Mirror.step  # the first write of it was one too many
    assert "changing" in made.failed


def test_an_older_version_as_the_first_mirror_is_put_out_by_the_digest() -> None:
    made = bench(Mirror(version=7, body=OLD), Mirror())
    made.run(attempts=1, sha256=sha256_of(GOOD))
    assert made.content == GOOD
    assert net_of(made).order == ["m0", "m1"]
    assert net_of(made).served == 2 * SIZE


def test_a_digest_that_is_wrong_itself_costs_one_reading_of_each_and_one_more() -> None:
    made = bench(Mirror(), Mirror(), Mirror())
    error = failing(made, attempts=8, sha256=sha256_of(OLD))
    assert error.reason == "digest"
    assert net_of(made).served == 4 * SIZE


def test_a_mirror_without_ranges_is_put_aside_and_the_rest_comes_from_the_first() -> None:
    made = bench(Mirror(cuts=[600_000, 0, None]), Mirror(ranges=False, if_match=False))
    made.run(attempts=3, sha256=sha256_of(GOOD))
    assert made.content == GOOD
    assert net_of(made).served == SIZE


# -- large objects: repair and company -----------------------------------------------------------


def spoiled(body: bytes, *places: int) -> bytes:
    wrong = bytearray(body)
    for at in places:
        wrong[at] ^= 1
    return bytes(wrong)


def pieces_of(body: bytes, size: int = 4 << 20) -> Pieces:
    cut = [body[at : at + size] for at in range(0, len(body), size)]
    return Pieces(size, "sha256", tuple(hashlib.sha256(one).hexdigest() for one in cut))


def test_bad_pieces_are_fetched_from_another_mirror() -> None:
    good = LARGE_GOOD
    made = bench(Mirror(body=spoiled(good, 9 << 20), step=1 << 20), Mirror(body=good, step=1 << 20))
    made.run(attempts=1, pieces=pieces_of(good))
    assert made.content == good
    assert net_of(made).hosts["m1.example"].served == 8 << 20  # the extent with the piece


def test_wrong_bytes_are_read_again_from_another_mirror() -> None:
    good = LARGE_GOOD
    made = bench(Mirror(body=spoiled(good, 9 << 20), step=1 << 20), Mirror(body=good, step=1 << 20))
    made.run(attempts=1, sha256=sha256_of(good))
    assert made.content == good
    assert net_of(made).served <= 2 * LARGE


def test_a_mirror_with_an_old_version_costs_one_more_size() -> None:
    good = LARGE_GOOD
    old = Mirror(body=LARGE_OLD, version=9, step=1 << 20)
    made = bench(old, Mirror(body=good, step=1 << 20))
    made.run(attempts=1, sha256=sha256_of(good))
    assert made.content == good
    assert net_of(made).served <= 2 * LARGE


def test_helpers_turn_to_the_other_mirror_too() -> None:
    good = body_of(1, 40 << 20)
    made = bench(
        Mirror(body=good, cuts=[3 << 20] * 40, step=1 << 20),
        Mirror(body=good, step=1 << 20),
        streams=3,
    )
    made.run(attempts=2, sha256=sha256_of(good))
    assert made.content == good
    assert net_of(made).served <= (40 << 20) * 1.1


# -- a second process ------------------------------------------------------------------------------


def test_bytes_of_an_earlier_run_are_joined_where_their_version_is_known() -> None:
    made = bench(Mirror(dead=True), Mirror(version=3, cuts=[500_000, 0]))
    failing(made, attempts=1)
    assert made.kept == 500_000
    net_of(made).hosts["m0.example"].dead = False
    made.run(attempts=2)
    assert made.content == GOOD
    assert net_of(made).hosts["m1.example"].served == SIZE
    assert net_of(made).hosts["m0.example"].served == 0


def test_who_lends_to_bytes_of_an_earlier_run_is_not_taken_for_their_source() -> None:
    """Its ETag is another, so asked as if they were its own it would begin anew."""
    made = bench(Mirror(dead=True), Mirror(version=3, cuts=[400_000, 0]))
    failing(made, attempts=1, sha256=sha256_of(GOOD))
    first, second = net_of(made).hosts.values()
    first.dead, first.cuts, second.dead = False, [200_000 + 65536], True
    made.run(attempts=3, sha256=sha256_of(GOOD))
    assert made.content == GOOD
    assert net_of(made).served == SIZE + 2 * 65536


# -- all are bad -----------------------------------------------------------------------------------


def test_when_none_has_it_the_best_reason_is_told() -> None:
    made = bench(Mirror(status=404), Mirror(body=b"x"), Mirror(status=403))
    error = failing(made, attempts=8, size=SIZE)
    assert error.reason == "size"
    assert "all 3 addresses failed" in str(error)
    assert "m2.example: status: 403" in str(error)
    assert [mirror.requests for mirror in net_of(made).hosts.values()] == [1, 1, 1]


def test_one_that_may_come_back_is_asked_until_the_attempts_are_used_up() -> None:
    made = bench(Mirror(status=404), Mirror(dead=True))
    error = failing(made, attempts=3)
    assert error.verdict.reason == "ECONNREFUSED"
    assert [mirror.requests for mirror in net_of(made).hosts.values()] == [1, 3]


def test_all_dead() -> None:
    made = bench(*(Mirror(dead=True) for _ in range(3)))
    error = failing(made, attempts=2)
    assert error.verdict.reason == "ECONNREFUSED"
    assert [mirror.requests for mirror in net_of(made).hosts.values()] == [2, 2, 2]


def test_a_cancel_asks_nobody_else() -> None:
    cancel = Cancel()
    first = Mirror(cuts=[1000])
    first.before = lambda _: cancel.set()
    made = bench(first, Mirror())
    error = failing(made, cancel=cancel)
    assert error.reason == "cancelled"


# -- whatever they do ----------------------------------------------------------------------------


KINDS: dict[str, dict[str, object]] = {
    "good": {},
    "other tag": {"version": 4},
    "old": {"version": 7, "body": OLD},
    "old, bare": {"body": OLD, "etag": False, "dated": False},
    "liar": {"body": OLD},  # the tag of the good one, other bytes
    "other size": {"version": 8, "body": OLD[:777_777]},
    "no ranges": {"ranges": False, "if_match": False},
    "page": {"alter": html},
    "gone": {"status": 404},
    "busy": {"status": 503},
    "dead": {"dead": True},
}


def _mirror(kind: str, cuts: list[int | None]) -> Mirror:
    return Mirror(cuts=cuts, **KINDS[kind])  # type: ignore[arg-type] # the table's own


CUTS = st.lists(st.one_of(st.none(), st.integers(0, SIZE)), max_size=4)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(KINDS)), CUTS), min_size=2, max_size=4))
def test_the_bytes_are_always_those_promised(drawn) -> None:
    """With a digest: never other bytes, and if a good mirror is there, always the file."""
    made = bench(*(_mirror(kind, list(cuts)) for kind, cuts in drawn))
    try:
        whole = made.run(attempts=40, sha256=sha256_of(GOOD))
    except TransferFailed:
        assert not {"good", "other tag", "no ranges"} & {kind for kind, _ in drawn}
    else:
        assert made.content == GOOD
        assert whole.verified == "sha256"


@pytest.mark.parametrize("cuts", [[], [5 << 20, None, 3 << 20, 0]], ids=["whole", "cut"])
@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize(
    ("kinds", "sizes"),
    [
        (("good", "good"), 1.1),
        (("other tag", "good"), 1.1),
        (("good", "old"), 2.1),
        (("old", "good"), 3.1),
        (("old", "other tag"), 3.1),
        (("old", "old"), 4.1),
        (("dead", "good"), 1.1),
    ],
    ids=str,
)
def test_large_objects_end_within_bounds(kinds, sizes, streams, cuts) -> None:
    mirrors = [_mirror(kind, list(cuts)) for kind in kinds]
    for mirror, kind in zip(mirrors, kinds, strict=True):
        mirror.body = LARGE_OLD if kind == "old" else LARGE_GOOD
        mirror.step = 1 << 20
    made = bench(*mirrors, streams=streams)
    if set(kinds) == {"old"}:
        assert failing(made, attempts=20, sha256=sha256_of(LARGE_GOOD)).reason == "digest"
    else:
        made.run(attempts=20, sha256=sha256_of(LARGE_GOOD))
        assert made.content == LARGE_GOOD
    assert net_of(made).served <= LARGE * sizes


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(KINDS.keys() - {"liar", "page"})), CUTS),
        min_size=2,
        max_size=4,
    )
)
def test_without_a_digest_two_versions_are_never_in_one_file(drawn) -> None:
    made = bench(*(_mirror(kind, list(cuts)) for kind, cuts in drawn))
    try:
        made.run(attempts=40)
    except TransferFailed:
        return
    assert made.content in {GOOD, OLD, OLD[:777_777]}
