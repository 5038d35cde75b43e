"""Digests: which are read, which count, and when two contradict each other."""

from __future__ import annotations

import base64
import hashlib

import pytest

from holdfast.transfer.verify import Digest, Hasher, contradiction, digests_in, to_check
from holdfast.wire.http1 import Head

BODY = b"the content"
SHA256 = hashlib.sha256(BODY)
MD5 = hashlib.md5(BODY, usedforsecurity=False)


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
