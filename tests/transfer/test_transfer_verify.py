"""Digests: which are read, which count, and when two contradict each other."""

from __future__ import annotations

import base64
import hashlib
import zlib

import pytest

from holdfast.transfer.verify import (
    STRENGTH,
    Digest,
    Hasher,
    contradiction,
    digests_in,
    is_s3,
    promises_in,
    to_check,
)
from holdfast.wire.http1 import Head
from holdfast.wire.urls import parse

BODY = b"the content"
SHA256 = hashlib.sha256(BODY)
MD5 = hashlib.md5(BODY, usedforsecurity=False)
SHA1 = hashlib.sha1(BODY, usedforsecurity=False)
CRC32 = zlib.crc32(BODY).to_bytes(4, "big")


def b64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


@pytest.mark.parametrize(
    ("algorithm", "text", "reason"),
    [
        ("sha256", "abc", "64 hexadecimal digits"),
        ("sha256", "g" * 64, "64 hexadecimal digits"),
        ("md5", SHA256.hexdigest(), "32 hexadecimal digits"),
        ("crc32", "00000000", "not one of the digests"),
    ],
)
def test_what_is_no_digest_is_refused(algorithm: str, text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Digest(algorithm, text)


def test_digests_of_the_whole_are_read_from_the_head() -> None:
    headers = {
        "repr-digest": f"sha-256=:{b64(SHA256.digest())}:, sha-512=:{b64(bytes(64))}:, md5=:x:",
        "content-md5": b64(MD5.digest()),
    }
    found = digests_in(Head(200, headers))
    assert [(d.algorithm, d.source) for d in found] == [
        ("sha512", "Repr-Digest"),
        ("sha256", "Repr-Digest"),
        ("md5", "Content-MD5"),
    ]
    assert found[1].hex == SHA256.hexdigest()
    assert found[2].hex == MD5.hexdigest()


def test_content_md5_of_a_part_is_not_that_of_the_whole() -> None:
    assert digests_in(Head(206, {"content-md5": b64(MD5.digest())})) == []


@pytest.mark.parametrize("value", ["", "rubbish", "sha-256=:!!:", "sha-256=:YWJj:", "sha-256=YWJj"])
def test_a_broken_digest_header_is_no_digest(value: str) -> None:
    assert digests_in(Head(200, {"repr-digest": value, "content-md5": value})) == []


def test_only_two_of_one_algorithm_can_contradict() -> None:
    mine = [Digest("sha256", "0" * 64)]
    other = Digest("sha256", "1" * 64, "Repr-Digest")
    assert contradiction(mine, [other]) == (mine[0], other)
    assert contradiction(mine, [Digest("sha256", "0" * 64, "Repr-Digest")]) is None
    assert contradiction(mine, [Digest("md5", "1" * 32, "Content-MD5")]) is None


def test_the_users_digests_count_before_the_strongest_of_the_server() -> None:
    mine = [Digest("md5", "0" * 32)]
    sent = [Digest("sha512", "1" * 128, "x"), Digest("sha256", "1" * 64, "x")]
    assert to_check(mine, sent) == mine
    assert to_check([], sent) == sent[:1]
    assert to_check([], []) == []


def test_a_running_digest_is_that_of_the_whole() -> None:
    hasher = Hasher(["sha256", "md5", "md5"])
    hasher.update(b"wrong")
    hasher.restart()
    hasher.update(BODY[:3])
    hasher.update(memoryview(BODY)[3:])
    assert hasher.position == len(BODY)
    assert hasher.algorithms == ["md5", "sha256"]
    assert hasher.hex("sha256") == SHA256.hexdigest()
    assert hasher.hex("md5") == MD5.hexdigest()


# -- S3 -------------------------------------------------------------------------------------------


def s3_head(status: int = 200, **headers: str) -> Head:
    return Head(status, {name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize(
    ("name", "raw", "algorithm"),
    [
        ("x_amz_checksum_sha256", SHA256.digest(), "sha256"),
        ("x_amz_checksum_sha1", SHA1.digest(), "sha1"),
        ("x_amz_checksum_crc32", CRC32, "crc32"),
    ],
)
def test_a_checksum_of_s3_is_read_of_the_whole_only(name: str, raw: bytes, algorithm: str) -> None:
    (found,) = digests_in(s3_head(**{name: b64(raw)}))
    assert found == Digest(algorithm, raw.hex(), name.replace("_", "-"))
    assert digests_in(s3_head(206, **{name: b64(raw)})) == []


@pytest.mark.parametrize(
    "headers",
    [
        {"x_amz_checksum_sha256": b64(SHA256.digest()) + "-3"},
        {"x_amz_checksum_sha256": b64(SHA256.digest()), "x_amz_checksum_type": "COMPOSITE"},
    ],
)
def test_a_checksum_of_parts_is_ignored_and_said(headers: dict[str, str]) -> None:
    found = promises_in(s3_head(**headers))
    assert found.digests == ()
    assert found.ignored == ("x-amz-checksum-sha256 (of parts, not of the whole)",)


def test_a_crc_that_cannot_be_computed_here_is_ignored_and_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("holdfast.transfer.verify.fast", lambda _: None)
    found = promises_in(s3_head(x_amz_checksum_crc64nvme=b64(bytes(8))))
    assert found.digests == ()
    assert found.ignored == ("x-amz-checksum-crc64nvme (nothing here computes it fast)",)


@pytest.mark.parametrize("status", [200, 206])
def test_the_etag_of_s3_is_an_md5(status: int) -> None:
    head = s3_head(status, etag=f'"{MD5.hexdigest()}"', x_amz_server_side_encryption="AES256")
    assert digests_in(head, s3=True) == [Digest("md5", MD5.hexdigest(), "ETag")]
    assert digests_in(head) == []  # of any other server it is only a name


@pytest.mark.parametrize(
    ("etag", "headers", "said"),
    [
        ('"%s-4"', {}, ("ETag (of parts, not of the whole)",)),
        (
            '"%s"',
            {"x_amz_server_side_encryption": "aws:kms"},
            ("ETag (no MD5: the object is encrypted with a key)",),
        ),
        (
            '"%s"',
            {"x_amz_server_side_encryption_customer_algorithm": "AES256"},
            ("ETag (no MD5: the object is encrypted with a key)",),
        ),
        (
            '"%s"',
            {"x_amz_storage_class": "EXPRESS_ONEZONE"},
            ("ETag (no MD5 in a directory bucket)",),
        ),
        ('W/"%s"', {}, ()),
        ("%s", {}, ()),
        ('"x%s"', {}, ()),
    ],
)
def test_an_etag_that_is_no_md5_is_not_taken_for_one(
    etag: str, headers: dict[str, str], said: tuple[str, ...]
) -> None:
    found = promises_in(s3_head(etag=etag % MD5.hexdigest(), **headers), s3=True)
    assert (found.digests, found.ignored) == ((), said)


def test_the_strongest_of_all_that_is_promised_is_checked() -> None:
    head = s3_head(
        etag=f'"{MD5.hexdigest()}"',
        x_amz_checksum_crc32=b64(CRC32),
        x_amz_checksum_sha1=b64(SHA1.digest()),
        repr_digest=f"sha-512=:{b64(bytes(64))}:",
    )
    found = digests_in(head, s3=True)
    assert [digest.algorithm for digest in found] == ["sha512", "sha1", "md5", "crc32"]
    for n, strongest in enumerate(found):
        assert to_check([], reversed(found[n:])) == [strongest]


def test_the_order_of_strength_is_one_table() -> None:
    assert list(STRENGTH) == ["sha512", "sha256", "sha1", "md5", "crc64nvme", "crc32c", "crc32"]


def test_two_sources_of_one_server_can_contradict_each_other() -> None:
    one, two = Digest("md5", "0" * 32, "Content-MD5"), Digest("md5", "1" * 32, "ETag")
    assert contradiction([], [one, two]) == (one, two)


def test_a_user_does_not_vouch_with_a_crc() -> None:
    with pytest.raises(ValueError, match="not one of the digests sha512, sha256, sha1, md5"):
        Digest("crc32", "00000000", "list")


@pytest.mark.parametrize(
    ("url", "s3"),
    [
        ("https://nsf-ncar-era5.s3.amazonaws.com/x", True),
        ("https://s3.us-west-2.amazonaws.com/b/x", True),
        ("https://s3-us-west-2.amazonaws.com/b/x", True),
        ("https://b.c.s3.us-west-2.amazonaws.com/x", True),
        ("https://b.s3.dualstack.eu-west-1.amazonaws.com/x", True),
        ("https://b.s3.cn-north-1.amazonaws.com.cn/x", True),
        ("https://s3.amazonaws.com.example.org/x", False),
        ("https://evil-s3.amazonaws.com/x", False),
        ("https://ec2.amazonaws.com/x", False),
        ("https://example.org/s3.amazonaws.com", False),
    ],
)
def test_s3_is_known_by_its_name(url: str, s3: bool) -> None:  # noqa: FBT001 - the form of a row
    assert is_s3(parse(url), {}) is s3
    assert is_s3(parse(url), {"X-Amz-Checksum-Mode": "ENABLED"})


def test_a_running_digest_may_be_a_crc() -> None:
    hasher = Hasher(["crc32", "sha256"])
    hasher.update(BODY)
    assert hasher.hex("crc32") == CRC32.hex()
    assert hasher.hex("sha256") == SHA256.hexdigest()
