"""One object over a bad origin: never two versions in one file, never a byte fetched in vain."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

import pytest
from transfer_origin import DATES, SIZE, Bench, Origin, body_of, sha256_of, with_head

from holdfast.transfer.failures import Interrupted, TransferFailed
from holdfast.transfer.validators import OVERLAP_BYTES, Rung
from holdfast.wire.cancel import Cancel
from holdfast.wire.http1 import Framing, Head

if TYPE_CHECKING:
    from holdfast.transfer.plane import Request

NEW = body_of(2)


def failed(bench: Bench, reason: str, **options: object) -> TransferFailed:
    with pytest.raises(TransferFailed) as caught:
        bench.run(**options)  # type: ignore[arg-type] # the options of `run`
    assert caught.value.reason == reason
    return caught.value


# -- resuming ------------------------------------------------------------------------------------


def test_every_byte_before_a_cut_is_kept() -> None:
    origin = Origin(cuts=[100_001, 1, 400_000])
    bench = Bench(origin)
    whole = bench.run()
    assert bench.content == body_of(1)
    assert origin.served == SIZE
    assert bench.ranges == ["", "bytes=100001-", "bytes=100002-", "bytes=500002-"]
    assert whole.verified == "size-only"


def test_fifty_cuts_with_progress_need_few_attempts() -> None:
    origin = Origin(cuts=[20_000] * 50)
    bench = Bench(origin)
    bench.run(attempts=2)
    assert bench.content == body_of(1)
    assert len(origin.asked) == 51


def test_cuts_without_progress_end_it() -> None:
    origin = Origin(cuts=[0] * 50)
    failed(Bench(origin), "network", attempts=3)
    assert len(origin.asked) == 3


def test_a_server_without_ranges_that_always_breaks_is_not_asked_for_ever() -> None:
    origin = Origin(ranges=False, cuts=[500_000] * 50)
    failed(Bench(origin), "network", attempts=3)
    assert len(origin.asked) == 3  # only the first one was progress


def test_a_second_process_goes_on_from_the_rows() -> None:
    origin = Origin(cuts=[300_000, 0])
    bench = Bench(origin)
    failed(bench, "network", attempts=1)
    assert bench.kept == 300_000
    bench.run()
    assert bench.ranges[-1] == "bytes=300000-"
    assert bench.content == body_of(1)


def test_short_ranges_are_joined_without_a_failure() -> None:
    def at_most(head: Head, body: bytes, request: Request) -> tuple[Head, bytes]:
        if head.status != 206:
            return head, body
        start = int(request.headers["Range"][6:-1])
        stop = min(SIZE, start + 300_000)
        given = f"bytes {start}-{stop - 1}/{SIZE}"
        head = with_head(
            head, headers={**head.headers, "content-range": given}, length=stop - start
        )
        return head, body[: stop - start]

    bench = Bench(Origin(cuts=[10], alter=at_most))
    bench.run()
    assert bench.content == body_of(1)
    assert bench.failed == ["network"]


def test_what_is_whole_already_is_not_asked_for() -> None:
    origin = Origin()
    bench = Bench(origin)
    bench.run()
    bench.run(sha256=sha256_of(body_of(1)))
    assert len(origin.asked) == 1


# -- which version -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [SIZE, SIZE - 5, SIZE + 5])
def test_a_changed_object_gives_the_new_version_whole(size: int) -> None:
    new = body_of(2, size)
    origin = Origin(cuts=[300_000])
    origin.before = lambda n: origin.change(new) if n == 2 else None
    bench = Bench(origin)
    bench.run()
    assert bench.content == new
    assert origin.served == 300_000 + size
    assert bench.standing.changes == 1


def test_a_changed_object_behind_a_server_that_heeds_no_condition() -> None:
    origin = Origin(cuts=[300_000], if_match=False)
    origin.before = lambda n: origin.change() if n == 2 else None

    bench = Bench(origin)
    bench.run()
    assert bench.content == NEW
    assert bench.ranges == ["", "bytes=300000-", ""]


def test_a_server_with_a_broken_if_match_is_asked_by_if_range() -> None:
    def broken(head: Head, body: bytes, request: Request) -> tuple[Head, bytes]:
        if "If-Match" in request.headers:
            return Head(412, {}, Framing.LENGTH, 0), b""
        return head, body

    origin = Origin(cuts=[300_000], alter=broken)
    bench = Bench(origin)
    whole = bench.run()
    assert bench.content == body_of(1)
    assert origin.served == SIZE
    assert bench.standing.limit is Rung.IF_RANGE
    assert whole.verified == "size-only"


def test_three_changes_are_too_many() -> None:
    origin = Origin(cuts=[300_000] * 9)
    origin.before = lambda _: origin.change()
    error = failed(Bench(origin), "changing")
    assert "3 times" in str(error)


def nodes(origin: Origin, order: str) -> None:
    """Let the n-th exchange reach the node that `order` names; each has its own ETag."""

    def choose(head: Head, body: bytes, request: Request) -> tuple[Head, bytes]:
        tag = f'"{order[(len(origin.asked) - 1) % len(order)]}"'
        condition = request.headers.get("If-Match", request.headers.get("If-Range", tag))
        headers = {**head.headers, "etag": tag}
        if condition not in {tag, DATES[1]}:
            if "If-Match" in request.headers:
                return Head(412, headers, Framing.LENGTH, 0), b""
            headers.pop("content-range", None)
            return Head(200, headers, Framing.LENGTH, SIZE), body_of(1)
        return with_head(head, headers=headers), body

    origin.if_match = False
    origin.tags_of_nodes = True
    origin.alter = choose


def test_nodes_with_their_own_etags_are_told_from_changes() -> None:
    origin = Origin(cuts=[100_000] * 20)
    nodes(origin, "abcab")
    bench = Bench(origin)
    whole = bench.run()
    assert bench.content == body_of(1)
    assert bench.standing.nodes
    assert whole.verified == "size-only"
    assert origin.served <= SIZE + 3 * 100_000
    assert "changing" in bench.failed  # answers of other nodes were tried again


def test_with_a_digest_any_node_will_do() -> None:
    origin = Origin(cuts=[100_000] * 20)
    nodes(origin, "abcab")
    bench = Bench(origin)
    assert bench.run(sha256=sha256_of(body_of(1))).verified == "sha256"
    assert bench.content == body_of(1)
    assert "changing" not in bench.failed


def test_last_modified_vouches_weakly() -> None:
    origin = Origin(etag=False, cuts=[300_000])
    bench = Bench(origin)
    assert bench.run().verified == "unverified"
    assert origin.asked[1].headers["If-Range"] == DATES[1]
    assert bench.content == body_of(1)


def test_a_digest_makes_a_weak_resume_sure() -> None:
    bench = Bench(Origin(etag=False, cuts=[300_000]))
    assert bench.run(sha256=sha256_of(body_of(1))).verified == "sha256"


def test_another_last_modified_is_another_version() -> None:
    origin = Origin(etag=False, cuts=[300_000])
    origin.before = lambda n: origin.change() if n == 2 else None
    bench = Bench(origin)
    assert bench.run().verified == "size-only"  # all of one answer again
    assert bench.content == NEW


def test_without_validators_the_overlap_is_compared() -> None:
    origin = Origin(etag=False, dated=False, cuts=[300_000])
    bench = Bench(origin)
    assert bench.run().verified == "unverified"
    assert bench.ranges[1] == f"bytes={300_000 - OVERLAP_BYTES}-"
    assert bench.content == body_of(1)
    assert origin.served == SIZE + OVERLAP_BYTES


def test_an_overlap_that_differs_starts_over() -> None:
    origin = Origin(etag=False, dated=False, cuts=[300_000])
    origin.before = lambda n: origin.change() if n == 2 else None
    bench = Bench(origin)
    assert bench.run().verified == "size-only"
    assert bench.content == NEW
    assert bench.standing.changes == 1


def test_a_coded_answer_is_never_resumed() -> None:
    origin = Origin(headers={"content-encoding": "gzip"}, cuts=[300_000])
    bench = Bench(origin)
    bench.run()
    assert bench.ranges == ["", ""]
    assert bench.content == body_of(1)


# -- odd answers ---------------------------------------------------------------------------------


def test_a_range_that_is_not_the_one_asked_ends_in_one_stream() -> None:
    def shifted(head: Head, body: bytes, request: Request) -> tuple[Head, bytes]:
        if head.status != 206:
            return head, body
        start = int(request.headers["Range"][6:-1]) - 1
        given = f"bytes {start}-{SIZE - 1}/{SIZE}"
        head = with_head(
            head, headers={**head.headers, "content-range": given}, length=SIZE - start
        )
        return head, body_of(1)[start:]

    bench = Bench(Origin(cuts=[300_000], alter=shifted))
    bench.run()
    assert bench.content == body_of(1)
    assert bench.ranges[-1] == ""


def test_200_with_the_range_asked_is_taken_as_206() -> None:
    def plain(head: Head, body: bytes, request: Request) -> tuple[Head, bytes]:
        return with_head(head, status=200), body

    origin = Origin(cuts=[300_000], alter=plain)
    bench = Bench(origin)
    bench.run()
    assert bench.content == body_of(1)
    assert origin.served == SIZE


def test_a_whole_body_in_place_of_a_range_is_written_from_zero() -> None:
    origin = Origin(cuts=[300_000], ranges=False)
    bench = Bench(origin)
    bench.run()
    assert bench.content == body_of(1)
    assert origin.served == SIZE + 300_000


def test_416_that_names_our_size_means_whole() -> None:
    # A chunked body was cut after its last byte, before the chunk that ends it.
    origin = Origin(framing=Framing.CHUNKED, cuts=[SIZE])
    origin.alter = lambda head, body, _: (head, body + b"." if head.status == 200 else body)
    bench = Bench(origin)
    bench.run()
    assert bench.content == body_of(1)
    assert origin.served == SIZE


def test_416_with_another_size_is_another_version() -> None:
    origin = Origin(cuts=[300_000], if_match=False, etag=False, dated=False)
    origin.before = lambda n: origin.change(body_of(2, 1000)) if n == 2 else None
    bench = Bench(origin)
    bench.run()
    assert bench.content == body_of(2, 1000)


def test_416_without_a_size_starts_over_once() -> None:
    def nothing(head: Head, body: bytes, request: Request) -> tuple[Head, bytes]:
        return (Head(416), b"") if "Range" in request.headers else (head, body)

    bench = Bench(Origin(cuts=[300_000], alter=nothing))
    bench.run()
    assert bench.ranges == ["", "bytes=300000-", ""]
    assert bench.content == body_of(1)


def test_a_body_longer_than_its_object_is_cut_there() -> None:
    def longer(head: Head, body: bytes, request: Request) -> tuple[Head, bytes]:
        if head.status != 206:
            return head, body
        return with_head(head, framing=Framing.CHUNKED, length=None), body + b"surplus"

    bench = Bench(Origin(cuts=[300_000], alter=longer))
    bench.run()
    assert bench.content == body_of(1)


def test_the_end_of_a_connection_is_no_proof() -> None:
    bench = Bench(Origin(framing=Framing.CLOSE))
    assert bench.run().verified == "unverified"
    assert Bench(Origin(framing=Framing.CLOSE)).run(size=SIZE).verified == "size-only"
    sha256 = sha256_of(body_of(1))
    assert Bench(Origin(framing=Framing.CLOSE)).run(sha256=sha256).verified == "sha256"


def test_an_empty_object_is_whole_at_once() -> None:
    bench = Bench(Origin(body=b""))
    assert bench.run().size == 0
    assert bench.content == b""


def test_a_page_in_place_of_the_object_is_not_written() -> None:
    page = Head(200, {"content-type": "text/html"}, Framing.LENGTH, 9)
    origin = Origin(cuts=[300_000])
    origin.alter = lambda head, body, _: (
        (page, b"<html>.. ") if len(origin.asked) in {2, 3} else (head, body)
    )
    bench = Bench(origin)
    bench.run()
    assert bench.failed == ["network", "captive", "captive"]
    assert bench.content == body_of(1)
    assert origin.served == SIZE


def test_a_page_is_written_if_it_is_what_is_wanted() -> None:
    origin = Origin(body=b"<html>", headers={"content-type": "text/html"})
    bench = Bench(origin)
    bench.run(allow_html=True, size=6)
    assert bench.content == b"<html>"


@pytest.mark.parametrize(
    ("status", "headers", "asked", "reason"),
    [
        (404, {}, 1, "status"),
        (403, {}, 1, "status"),
        (401, {}, 1, "status"),
        (501, {}, 1, "status"),
        (204, {}, 1, "status"),
        (500, {}, 4, "status"),
        (503, {}, 4, "status"),
        (429, {"retry-after": "0"}, 4, "status"),
        (503, {"retry-after": "7200"}, 1, "status"),
        (302, {}, 1, "status"),
    ],
)
def test_a_status_is_repeated_only_if_that_may_help(
    status: int, headers: dict[str, str], asked: int, reason: str
) -> None:
    origin = Origin(alter=lambda *_: (Head(status, headers, Framing.LENGTH, 0), b""))
    error = failed(Bench(origin), reason, attempts=4)
    assert error.status == status
    assert len(origin.asked) == asked


def test_a_signed_address_that_is_refused_half_way_needs_a_new_one() -> None:
    origin = Origin(cuts=[300_000])
    origin.alter = lambda head, body, _: (Head(403), b"") if len(origin.asked) > 1 else (head, body)
    bench = Bench(origin, "https://b.example/k?X-Amz-Signature=s")
    failed(bench, "needs-url")
    assert bench.kept == 300_000


# -- is it right ---------------------------------------------------------------------------------


def test_a_byte_flipped_on_the_way_is_repaired_by_fetching_once_more() -> None:
    origin = Origin()
    flipped = body_of(1)[:-1] + bytes([body_of(1)[-1] ^ 1])
    origin.alter = lambda head, body, _: (head, flipped if len(origin.asked) == 1 else body)
    bench = Bench(origin)
    assert bench.run(sha256=sha256_of(body_of(1))).verified == "sha256"
    assert bench.content == body_of(1)
    assert origin.served == 2 * SIZE


def test_a_wrong_digest_fails_with_both_and_keeps_the_bytes() -> None:
    origin = Origin()
    bench = Bench(origin)
    wrong = "0" * 64
    error = failed(bench, "digest", sha256=wrong)
    assert wrong in str(error)
    assert sha256_of(body_of(1)) in str(error)
    assert origin.served == 2 * SIZE
    assert bench.kept == SIZE
    assert bench.run(sha256=sha256_of(body_of(1))).verified == "sha256"
    assert origin.served == 2 * SIZE


def test_the_servers_digest_is_verified_too() -> None:
    def repr_digest(body: bytes) -> dict[str, str]:
        text = base64.b64encode(hashlib.sha256(body).digest()).decode()
        return {"repr-digest": f"sha-256=:{text}:"}

    good = Bench(Origin(headers=repr_digest(body_of(1)), cuts=[300_000]))
    assert good.run().verified == "sha256"
    failed(Bench(Origin(headers=repr_digest(NEW))), "digest")


def test_digests_that_contradict_each_other_cost_no_body() -> None:
    text = base64.b64encode(bytes(32)).decode()
    origin = Origin(headers={"repr-digest": f"sha-256=:{text}:"})
    error = failed(Bench(origin), "digest", sha256="1" * 64)
    assert "0" * 64 in str(error)
    assert origin.served == 0


@pytest.mark.parametrize("framing", list(Framing))
def test_another_size_than_promised_fails(framing: Framing) -> None:
    error = failed(Bench(Origin(framing=framing)), "size", size=SIZE - 1)
    assert f"expected: {SIZE - 1}" in str(error)


@pytest.mark.parametrize("framing", list(Framing))
def test_more_than_the_limit_is_not_kept(framing: Framing) -> None:
    origin = Origin(framing=framing)
    failed(Bench(origin), "too-big", max_size=100_000)
    assert origin.served <= 100_001
    assert Bench(Origin(framing=framing)).run(max_size=SIZE).size == SIZE


# -- redirects, cancel ---------------------------------------------------------------------------


def test_redirects_are_followed_and_each_attempt_begins_at_the_first() -> None:
    def moved(head: Head, body: bytes, request: Request) -> tuple[Head, bytes]:
        if request.url.host == "origin.example":
            return Head(302, {"location": "http://cdn.example/data.nc"}), b""
        return head, body

    origin = Origin(cuts=[300_000], alter=moved)
    bench = Bench(origin)
    bench.run(headers={"X-Key": "secret"})
    assert bench.content == body_of(1)
    assert [r.url.host for r in origin.asked] == ["origin.example", "cdn.example"] * 2
    assert [r.headers.get("X-Key") for r in origin.asked] == ["secret", None] * 2


@pytest.mark.parametrize(
    ("location", "text"),
    [
        ("/data.nc", "in a circle"),
        ("ftp://x/", "not supported"),
        ("http://origin.example/plain", "from https to http"),
    ],
)
def test_some_redirects_are_not_followed(location: str, text: str) -> None:
    origin = Origin(alter=lambda *_: (Head(302, {"location": location}), b""))
    error = failed(Bench(origin, "https://origin.example/data.nc"), "redirects")
    assert text in str(error)
    assert len(origin.asked) == 1


def test_ten_redirects_are_the_most() -> None:
    origin = Origin()
    origin.alter = lambda *_: (Head(302, {"location": f"/{len(origin.asked)}"}), b"")
    failed(Bench(origin), "redirects")
    assert len(origin.asked) == 11


def test_a_page_after_a_redirect_to_another_site_is_suspicious() -> None:
    def login(head: Head, body: bytes, request: Request) -> tuple[Head, bytes]:
        if request.url.host == "origin.example":
            return Head(302, {"location": "http://login.other/"}), b""
        return with_head(head, headers={"content-type": "text/html"}), b"<html>"

    failed(Bench(Origin(alter=login)), "captive", attempts=2)


def test_cancel_keeps_what_was_received() -> None:
    cancel = Cancel()
    origin = Origin(cuts=[300_000])
    origin.before = lambda n: cancel.set() if n == 1 else None
    bench = Bench(origin)
    with pytest.raises(Interrupted):
        bench.run(cancel=cancel)
    assert bench.kept == 300_000
    assert len(origin.asked) == 1
