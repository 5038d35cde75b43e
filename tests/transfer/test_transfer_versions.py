"""Which version is joined: S3's version ids, ETags that a redirect gives, and promised digests."""

from __future__ import annotations

import base64
import hashlib
import zlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import pytest
from transfer_origin import SIZE, Bench, Origin, body_of, sha256_of

from holdfast.transfer.failures import Reason, TransferFailed
from holdfast.transfer.plane import End, Received, Request, Sink
from holdfast.transfer.validators import Validators
from holdfast.wire.http1 import Framing, Head

if TYPE_CHECKING:
    from holdfast.wire.cancel import Cancel

S3 = "http://bucket.s3.amazonaws.com/data.nc"


@dataclass
class Bucket(Origin):
    """Keeps every version of its object, as a bucket with versioning does.

    readable: whether old versions may be read by their ids.
    """

    readable: bool = True
    kept: dict[str, bytes] = field(default_factory=dict)

    def fetch(self, request: Request, sink: Sink, cancel: Cancel) -> Received:
        (wanted,) = parse_qs(request.url.query).get("versionId", [""])
        if self.before:
            self.before(len(self.asked) + 1)
        current, body, before = self.version, self.body, self.before
        self.kept[f"id{current}"] = body
        try:
            self.before = None
            if wanted:
                if not self.readable:
                    self.asked.append(request)
                    sink.accept(Head(403, {}, Framing.LENGTH, 0))
                    return Received(End.UNREAD, Head(403, {}, Framing.LENGTH, 0))
                self.version, self.body = int(wanted.removeprefix("id")), self.kept[wanted]
            self.headers["x-amz-version-id"] = f"id{self.version}"
            return super().fetch(request, sink, cancel)
        finally:
            self.version, self.body, self.before = current, body, before


def changing(*at: int) -> Bucket:
    """Return a bucket whose object is replaced before these exchanges."""
    bucket = Bucket(cuts=[300_000] * 8)

    def before(n: int) -> None:
        if n in at:
            bucket.change()

    bucket.before = before
    return bucket


def versions_asked(bucket: Bucket) -> list[str]:
    return [parse_qs(r.url.query).get("versionId", [""])[0] for r in bucket.asked]


def test_a_replaced_object_is_taken_in_its_new_version_once() -> None:
    bucket = changing(2)
    bench = Bench(bucket, S3)
    bench.run()
    assert bench.content == body_of(2)
    assert versions_asked(bucket)[:3] == ["", "", ""]


def test_an_object_that_changes_all_the_time_is_held_by_its_version_id() -> None:
    bucket = changing(*range(2, 40))
    bench = Bench(bucket, S3)
    bench.run(attempts=3)
    assert bench.content in bucket.kept.values()
    assert set(versions_asked(bucket)[4:]) == {f"id{bench.standing.pinned.version[2:]}"}  # type: ignore[union-attr] # it is pinned
    assert bench.standing.changes == 1


def test_who_may_not_ask_for_versions_goes_on_by_the_etag() -> None:
    bucket = changing(2)
    bucket.readable = False
    bench = Bench(bucket, S3)
    bench.run()
    assert bench.content == body_of(2)
    asked = versions_asked(bucket)
    assert sum(1 for version in asked if version) == 1
    assert not asked[-1]


def test_without_an_etag_the_version_id_vouches() -> None:
    bucket = Bucket(etag=False, dated=False, cuts=[300_000] * 3)
    bench = Bench(bucket, S3)
    whole = bench.run()
    assert bench.content == body_of(1)
    assert versions_asked(bucket) == ["", "id1", "id1", "id1"]
    assert whole.verified == "size-only"  # not `unverified`: nothing weak was relied on


@pytest.mark.parametrize(
    "url",
    [
        "http://other.example/data.nc",
        f"{S3}?X-Amz-Signature=abc",
        f"{S3}?versionId=id1",
    ],
)
def test_an_address_that_takes_no_version_is_left_as_it_is(url: str) -> None:
    bucket = Bucket(etag=False, cuts=[300_000])
    bucket.kept["id1"] = bucket.body
    bench = Bench(bucket, url)
    bench.run()
    assert bench.content == body_of(1)
    assert {request.url.full() for request in bucket.asked} == {url}


# -- ETags of a redirect -------------------------------------------------------------------------


@dataclass
class Hub(Origin):
    """Redirects to nodes, each with ETags of its own; the redirect names the object's.

    changes_after: redirects, after which there is another version.
    """

    hops: int = 0
    changes_after: int = 0

    def fetch(self, request: Request, sink: Sink, cancel: Cancel) -> Received:
        if request.url.host == "hub.example":
            if self.hops and self.hops == self.changes_after:
                self.change()
            self.hops += 1
            where = f"http://node{self.hops}.example/x"
            fields = {"location": where, "x-linked-etag": f'"sha-of-{self.version}"'}
            head = Head(302, fields, Framing.LENGTH, 0)
            sink.accept(head)
            return Received(End.UNREAD, head)
        node = request.url.host
        self.tags_of_nodes = True
        self.alter = lambda head, body, _: (
            replace(head, headers={**head.headers, "etag": f'"{node}"', "last-modified": ""}),
            body,
        )
        return super().fetch(request, sink, cancel)


@pytest.mark.parametrize("streams", [1, 3])
def test_the_etag_of_a_redirect_goes_before_those_of_the_nodes(streams: int) -> None:
    hub = Hub(cuts=[300_000] * 3)
    bench = Bench(hub, "http://hub.example/data.nc", streams=streams)
    whole = bench.run()
    assert bench.content == body_of(1)
    assert (whole.verified, bench.standing.changes) == ("size-only", 0)
    assert hub.served == SIZE
    assert bench.standing.pinned is not None
    assert bench.standing.pinned.etag == '"sha-of-1"'
    # Where it leads nobody knows our ETag: to ask by it would draw a refusal.
    assert not any(set(r.headers) & {"If-Match", "If-Range"} for r in hub.asked)


def test_another_etag_of_the_redirect_is_another_version() -> None:
    hub = Hub(cuts=[300_000], changes_after=1)
    bench = Bench(hub, "http://hub.example/data.nc")
    bench.run()
    assert bench.content == body_of(2)
    assert bench.standing.changes == 1
    assert hub.served == SIZE + 300_000  # the redirect told it: no range of the new one was asked


# -- promised digests ----------------------------------------------------------------------------


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


CRC32 = b64(zlib.crc32(body_of(1)).to_bytes(4, "big"))
SHA256 = b64(hashlib.sha256(body_of(1)).digest())


@pytest.mark.parametrize("streams", [1, 3])
def test_a_crc_of_s3_is_checked_without_a_second_reading(streams: int) -> None:
    origin = Origin(headers={"x-amz-checksum-crc32": CRC32})
    bench = Bench(origin, streams=streams)
    whole = bench.run()
    assert (whole.verified, whole.source) == ("crc32", "x-amz-checksum-crc32")
    assert whole.digest == f"{zlib.crc32(body_of(1)):08x}"
    assert "pread" not in {op for op, _ in bench.files.log}


def test_a_wrong_crc_of_s3_is_found() -> None:
    origin = Origin(headers={"x-amz-checksum-crc32": b64(bytes(4))})
    with pytest.raises(TransferFailed, match="crc32 is not the one expected") as raised:
        Bench(origin).run()
    assert raised.value.reason is Reason.DIGEST


def test_a_digest_of_the_first_answer_is_kept_for_a_second_process() -> None:
    def only_whole(head: Head, body: bytes, _: Request) -> tuple[Head, bytes]:
        if head.status == 200:
            head = replace(head, headers={**head.headers, "x-amz-checksum-sha256": SHA256})
        return head, body

    origin = Origin(cuts=[300_000, None], alter=only_whole)
    bench = Bench(origin)
    with pytest.raises(TransferFailed):
        bench.run(attempts=1)
    assert [digest.source for digest in bench.standing.promised] == ["x-amz-checksum-sha256"]
    whole = bench.run()
    assert bench.ranges[1] == "bytes=300000-"
    assert (whole.verified, whole.digest) == ("sha256", sha256_of(body_of(1)))


def test_a_new_version_comes_with_its_own_digest() -> None:
    def promise(head: Head, body: bytes, _: Request) -> tuple[Head, bytes]:
        raw = hashlib.sha256(origin.body).digest()
        return replace(head, headers={**head.headers, "repr-digest": f"sha-256=:{b64(raw)}:"}), body

    origin = Origin(cuts=[300_000, None], alter=promise)
    origin.before = lambda n: origin.change() if n == 2 else None
    bench = Bench(origin)
    whole = bench.run()
    assert bench.content == body_of(2)
    assert whole.digest == sha256_of(body_of(2))


def test_another_digest_half_way_is_another_version() -> None:
    """All other validators are the same: a date of one second holds two versions."""

    def promise(head: Head, body: bytes, _: Request) -> tuple[Head, bytes]:
        raw = hashlib.sha256(origin.body).digest()
        fields = {**head.headers, "repr-digest": f"sha-256=:{b64(raw)}:", "etag": '"same"'}
        return replace(head, headers=fields), body

    origin = Origin(cuts=[300_000, None], alter=promise, dated=False, tags_of_nodes=True)
    origin.if_match = False
    origin.before = lambda n: setattr(origin, "body", body_of(2)) if n == 2 else None
    bench = Bench(origin)
    whole = bench.run()
    assert bench.content == body_of(2)
    assert whole.digest == sha256_of(body_of(2))
    assert bench.standing.changes == 1


def test_sources_that_contradict_each_other_are_both_named() -> None:
    md5 = hashlib.md5(body_of(1), usedforsecurity=False).digest()
    origin = Origin(headers={"content-md5": b64(md5)})
    origin.alter = lambda head, body, _: (
        replace(head, headers={**head.headers, "etag": f'"{"0" * 32}"'}),
        body,
    )
    with pytest.raises(TransferFailed) as raised:
        Bench(origin, S3).run()
    assert f"Content-MD5: {md5.hex()}" in str(raised.value)
    assert f"ETag: {'0' * 32}" in str(raised.value)
    assert origin.served == 0


def test_what_cannot_be_checked_is_said() -> None:
    origin = Origin(headers={"x-amz-checksum-sha256": SHA256 + "-2"})
    whole = Bench(origin).run()
    assert whole.verified == "size-only"
    assert whole.ignored == ("x-amz-checksum-sha256 (of parts, not of the whole)",)


def test_a_version_id_of_an_unversioned_bucket_is_none() -> None:
    bench = Bench(Origin(headers={"x-amz-version-id": "null"}), S3)
    bench.run()
    assert bench.standing.pinned is not None
    assert bench.standing.pinned.version == Validators().version
