"""Every cell: what `exists` says, what lies there, and whether a digest is known."""

from __future__ import annotations

import base64
import hashlib
import os
from typing import TYPE_CHECKING, Any

import pytest
from downloads_rig import Heard, downloads, names_in

import holdfast as hf
from holdfast.chaos.line import Plain
from holdfast.downloads import DownloadError
from holdfast.downloads.present import EXISTS
from holdfast.runtime.random import SeededRandom

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KIB = 1024
NEW = SeededRandom("new").bytes(100 * KIB)
THERE = {
    "nothing": None,
    "the right file": NEW,
    "another of this size": bytes(100 * KIB),
    "another size": b"mine",
}
SHA256 = hashlib.sha256(NEW).hexdigest()
PROMISE = "sha-256=:" + base64.b64encode(hashlib.sha256(NEW).digest()).decode() + ":"
KNOWN = {
    "nothing known": ({}, {}),
    "size known": ({}, {"size": len(NEW)}),
    "digest given": ({}, {"sha256": SHA256}),
    "digest promised": ({"Repr-Digest": PROMISE}, {}),
}


@pytest.fixture(scope="module")
def server() -> Iterator[hf.chaos.Server]:
    def plain(headers: dict[str, str]) -> Any:
        def answer(_: hf.chaos.Request) -> hf.chaos.Answer:
            fields = {"ETag": '"v1"', "Content-Type": "application/octet-stream", **headers}
            return hf.chaos.Answer(200, fields, Plain(NEW))

        return answer

    routes = [
        hf.chaos.Handler(f"/{n}", plain(headers)) for n, (headers, _) in enumerate(KNOWN.values())
    ]
    with hf.chaos.server(*routes) as running:
        yield running


def expected(exists: str, there: str, known: str) -> tuple[str, str, bytes | None, str]:
    """Return state, verified, what lies there afterwards, and the reason of a failure."""
    digest = known.startswith("digest")
    fetched = "sha256" if digest else "size-only"
    old = THERE[there]
    if old is None:
        return "done", fetched, NEW, ""
    if exists == "skip":
        return "skipped", "unverified", old, ""
    if exists == "fail":
        return "failed", "", old, "exists"
    if exists == "overwrite":
        return "done", fetched, NEW, ""
    right = old == NEW if digest else len(old) == len(NEW)
    if not right:
        return "failed", "", old, "exists"
    return "skipped", "sha256" if digest else "unverified", old, ""


@pytest.mark.parametrize("known", KNOWN)
@pytest.mark.parametrize("there", THERE)
@pytest.mark.parametrize("exists", EXISTS)
def test_each_cell(
    exists: str, there: str, known: str, server: hf.chaos.Server, tmp_path: Path
) -> None:
    old = THERE[there]
    if old is not None:
        (tmp_path / "x").write_bytes(old)
    before = server.stats.requests
    heard = Heard()
    with downloads(tmp_path, exists=exists) as d:
        d.watch(heard)
        d.add(server.url(f"/{list(KNOWN).index(known)}"), path="x", **KNOWN[known][1])
        report = d.run()
        (item,) = d.status().items
    state, verified, content, reason = expected(exists, there, known)
    assert item.state.value == heard.states[-1] == state
    assert item.verified == verified
    assert (tmp_path / "x").read_bytes() == content
    assert [f.reason for f in report.failed] == ([reason] if reason else [])
    assert names_in(tmp_path) == ["x"]
    # What can be said without asking is said without asking.
    unasked = old is not None and (exists in {"skip", "fail"} or known == "digest given")
    if old is not None and exists == "verify" and known == "size known":
        unasked = True
    if exists == "overwrite":
        unasked = False
    assert (server.stats.requests == before) is unasked


@pytest.mark.parametrize("exists", EXISTS)
@pytest.mark.parametrize("kind", ["link", "link to nothing", "directory", "fifo"])
def test_what_is_no_plain_file_fails_in_every_mode(
    exists: str, kind: str, server: hf.chaos.Server, tmp_path: Path
) -> None:
    target, other = tmp_path / "x", tmp_path / "other"
    other.write_bytes(b"theirs")
    if kind == "directory":
        target.mkdir()
    elif kind == "fifo":
        os.mkfifo(target)
    else:
        target.symlink_to(other if kind == "link" else tmp_path / "none")
    with downloads(tmp_path, exists=exists) as d:
        d.add(server.url("/0"), path="x")
        report = d.run()
    assert [f.reason for f in report.failed] == ["unsafe-target"]
    assert other.read_bytes() == b"theirs"
    assert names_in(tmp_path) == ["other", "x"]


@pytest.mark.parametrize("exists", EXISTS)
def test_a_file_of_ours_that_is_as_it_was_is_skipped_in_every_mode(
    exists: str, server: hf.chaos.Server, tmp_path: Path
) -> None:
    for done, skipped in ((1, 0), (0, 1)):
        with downloads(tmp_path, exists=exists) as d:
            d.add(server.url("/0"), path="x")
            report = d.run()
        assert (report.done, report.skipped, report.exit_code) == (done, skipped, 0)


@pytest.mark.parametrize(
    ("exists", "content"),
    [("verify", b"mine"), ("skip", b"mine"), ("overwrite", NEW), ("fail", b"mine")],
)
def test_a_file_of_ours_that_somebody_wrote_to_is_theirs(
    exists: str, content: bytes, server: hf.chaos.Server, tmp_path: Path
) -> None:
    for _ in range(2):
        with downloads(tmp_path, exists=exists) as d:
            d.add(server.url("/0"), path="x")
            d.run()
        if (tmp_path / "x").read_bytes() == NEW:
            (tmp_path / "x").write_bytes(b"mine")
            break
    with downloads(tmp_path, exists=exists) as d:
        d.add(server.url("/0"), path="x")
        d.run()
    assert (tmp_path / "x").read_bytes() == content


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"old")
    obj = hf.chaos.Object("/x", 400 * KIB, faults=[hf.chaos.Reset(after_bytes=100 * KIB, limit=1)])
    with hf.chaos.server(obj) as server:
        with downloads(tmp_path, exists="overwrite", policy=hf.policy(hf.Retry(1))) as d:
            d.add(server.url("/x"))
            assert d.run().done == 0
        assert (tmp_path / "x").read_bytes() == b"old"
        with downloads(tmp_path, exists="overwrite") as d:
            d.add(server.url("/x"), sha256="0" * 64)
            assert [f.reason for f in d.run().failed] == ["digest"]
        assert (tmp_path / "x").read_bytes() == b"old"
        with downloads(tmp_path, exists="overwrite") as d:
            d.add(server.url("/x"), sha256=server.expected_sha256("/x"))
            assert d.run().done == 1
        assert (tmp_path / "x").read_bytes() == server.expected_bytes("/x")


def test_another_word_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="verify, skip, overwrite, fail"):
        downloads(tmp_path, exists="maybe")
