"""What was checked, and by whose word: in the journal, the report and the events."""

from __future__ import annotations

import base64
import errno
import hashlib
import sqlite3
import zlib
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from downloads_rig import Heard, downloads, quick_policy

import holdfast as hf
import holdfast.downloads.engine
from holdfast.chaos.line import Plain
from holdfast.runtime import files as seam
from holdfast.runtime.random import SeededRandom
from holdfast.testing.files import SimFiles

if TYPE_CHECKING:
    from pathlib import Path

KIB, MIB = 1 << 10, 1 << 20
BODY = SeededRandom("body").bytes(300 * KIB)


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


SHA256 = hashlib.sha256(BODY)
MD5 = hashlib.md5(BODY, usedforsecurity=False)
CRC32 = zlib.crc32(BODY).to_bytes(4, "big")
SOURCES = {
    "Repr-Digest": ({"Repr-Digest": f"sha-256=:{b64(SHA256.digest())}:"}, "sha256"),
    "Content-MD5": ({"Content-MD5": b64(MD5.digest())}, "md5"),
    "x-amz-checksum-sha256": ({"x-amz-checksum-sha256": b64(SHA256.digest())}, "sha256"),
    "x-amz-checksum-crc32": ({"x-amz-checksum-crc32": b64(CRC32)}, "crc32"),
}


def serving(headers: dict[str, str], body: bytes = BODY) -> hf.chaos.Handler:
    def answer(_: hf.chaos.Request) -> hf.chaos.Answer:
        return hf.chaos.Answer(200, {"ETag": '"v1"', **headers}, Plain(body))

    return hf.chaos.Handler("/a.nc", answer)


def fetch(into: Path, server: hf.chaos.Server, **options: Any) -> tuple[Any, Any, Heard]:
    heard = Heard()
    given = options.pop("given", {})
    with downloads(into, **options) as d:
        d.watch(heard)
        d.add(server.url("/a.nc"), **given)
        report = d.run()
        return report, d.status().items[0], heard


@pytest.mark.parametrize("source", SOURCES)
def test_what_was_checked_and_by_whose_word_is_told_everywhere(source: str, tmp_path: Path) -> None:
    headers, verified = SOURCES[source]
    with hf.chaos.server(serving(headers)) as server:
        report, item, heard = fetch(tmp_path, server)
    assert dict(report.checked) == {verified: 1}
    assert (item.verified, item.vouched_by, item.ignored) == (verified, source, ())
    event = heard.named("FileState")[-1]
    assert (event.state, event.verified, event.source) == ("done", verified, source)
    with closing(sqlite3.connect(tmp_path / ".holdfast.db")) as db:
        (row,) = db.execute("SELECT verified, vouched_by, length(digest) > 0 FROM item")
    assert row == (verified, source, 1)


@pytest.mark.parametrize("source", SOURCES)
def test_each_source_finds_wrong_bytes(source: str, tmp_path: Path) -> None:
    headers, _ = SOURCES[source]
    wrong = bytes([BODY[0] ^ 1]) + BODY[1:]
    with hf.chaos.server(serving(headers, wrong)) as server:
        report, _, _ = fetch(tmp_path, server, policy=quick_policy(3))
    (failed,) = report.failed
    assert failed.reason == "digest"
    assert f"from: {source}" in failed.text
    assert not (tmp_path / "a.nc").exists()


def test_what_could_not_be_used_is_told(tmp_path: Path) -> None:
    headers = {"x-amz-checksum-crc32": b64(CRC32) + "-3"}
    said = "x-amz-checksum-crc32 (of parts, not of the whole)"
    with hf.chaos.server(serving(headers)) as server:
        report, item, heard = fetch(tmp_path, server)
    assert dict(report.checked) == {"size-only": 1}
    assert item.ignored == heard.named("FileState")[-1].ignored == (said,)


def test_sources_that_contradict_each_other_fail_before_a_byte(tmp_path: Path) -> None:
    headers = SOURCES["Repr-Digest"][0]
    with hf.chaos.server(serving(headers)) as server:
        report, _, _ = fetch(tmp_path, server, given={"sha256": "0" * 64})
    (failed,) = report.failed
    assert failed.reason == "digest"
    assert f"user: {'0' * 64}" in failed.text
    assert f"Repr-Digest: {SHA256.hexdigest()}" in failed.text
    assert report.fetched == 0


def test_two_digests_of_the_user_are_both_checked(tmp_path: Path) -> None:
    with hf.chaos.server(serving({})) as server:
        given = {"sha256": SHA256.hexdigest(), "md5": "0" * 32}
        report, _, _ = fetch(tmp_path, server, given=given, policy=quick_policy(3))
    assert [f.reason for f in report.failed] == ["digest"]


# -- disks ----------------------------------------------------------------------------------------


def on_disk(files: SimFiles, tmp_path: Path, server: hf.chaos.Server, **options: Any) -> Any:
    journal = tmp_path / "j.db"
    with seam.install(files), downloads(tmp_path / "d", journal=journal, **options) as d:
        d.add(server.url("/x"))
        return d.run()


@pytest.mark.parametrize("operation", ["allocate", "pwrite", "datasync"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_room_and_no_quota_pause(operation: str, number: int, tmp_path: Path) -> None:
    files = SimFiles()
    with hf.chaos.server(hf.chaos.Object("/x", 2 * MIB)) as server:
        files.fail(1, number, operation)
        report = on_disk(files, tmp_path, server, on_full="fail")
        assert (report.exit_code, report.left_why) == (3, ("disk",))
        files.heal()
        assert on_disk(files, tmp_path, server).exit_code == 0
        assert files.read(str(tmp_path / "d" / "x")) == server.expected_bytes("/x")


@pytest.mark.parametrize("operation", ["create", "allocate", "pwrite", "datasync"])
@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EROFS, "file-permission"),
        (errno.EACCES, "file-permission"),
        (errno.EIO, "file-error"),
    ],
)
def test_other_errors_of_a_disk_fail_the_file(
    operation: str, number: int, reason: str, tmp_path: Path
) -> None:
    files = SimFiles()
    with hf.chaos.server(hf.chaos.Object("/x", 2 * MIB)) as server:
        files.fail(1, number, operation)
        report = on_disk(files, tmp_path, server)
        assert [f.reason for f in report.failed] == [reason]
        files.heal()
        assert on_disk(files, tmp_path, server).exit_code == 0


def test_a_full_disk_is_alerted_once_and_once_more_when_it_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holdfast.downloads.engine, "ROOM_EVERY", 0.05)
    files = SimFiles(capacity=3 * MIB)
    alerts: list[Any] = []

    def hear(event: Any) -> None:
        if type(event).__name__ == "Alert":
            alerts.append(event)
            files.capacity = 1 << 30

    unsubscribe = hf.subscribe(hear)
    try:
        with hf.chaos.server(hf.chaos.Object("/x", 4 * MIB)) as server:
            report = on_disk(files, tmp_path, server, space_check=False)
            assert files.read(str(tmp_path / "d" / "x")) == server.expected_bytes("/x")
    finally:
        unsubscribe()
    assert (report.exit_code, report.fetched, report.waste) == (0, 4 * MIB, 0)
    assert [(alert.name, alert.cleared) for alert in alerts] == [("disk", False), ("disk", True)]


def test_a_part_that_is_left_has_no_room_that_is_not_its_own(tmp_path: Path) -> None:
    """What is only allocated is no data: a second run goes on where bytes are."""
    cut = hf.chaos.Reset(after_bytes=MIB, limit=1)
    files = SimFiles()
    with hf.chaos.server(hf.chaos.Object("/x", 4 * MIB, faults=[cut])) as server:
        report = on_disk(files, tmp_path, server, policy=hf.policy(hf.Retry(1)))
        assert report.done == 0
        (part,) = files.listdir(str(tmp_path / "d"))
        info = files.stat(str(tmp_path / "d" / part))
        assert info is not None
        assert info.size <= MIB
        assert on_disk(files, tmp_path, server).done == 1
        assert server.stats.bytes_down == 4 * MIB
