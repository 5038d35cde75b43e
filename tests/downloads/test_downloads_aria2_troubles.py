"""The aria2 client when several things go wrong at once, or at a bad moment."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest
from downloads_aria2_rig import (
    MIB,
    Daemon,
    Fake,
    asked,
    ended,
    needs_aria2c,
    on_a_loop,
    until,
)

import holdfast as hf
from holdfast.chaos import Object, Reset, Slow, Status
from holdfast.runtime.random import rng

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BROKEN = {"status": "error", "errorCode": "6", "errorMessage": "network"}


@pytest.fixture
def fake() -> Fake:
    return Fake()


@pytest.fixture
def server(fake: Fake) -> Iterator[hf.chaos.Server]:
    with hf.chaos.server(fake.route(), Object("/five", 5)) as server:
        yield server


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path) as daemon:
        yield daemon


@pytest.fixture
def longest_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rng, "draw", lambda: 1.0)


def client_of(server: hf.chaos.Server, tmp_path: Path, **options: Any) -> hf.Aria2Client:
    options.setdefault("retry_delay", 0.02)
    return hf.Aria2Client(server.url("/jsonrpc"), journal=tmp_path / "client.db", **options)


def states(recording: Any) -> list[tuple[str, str]]:
    events = [e for e in recording.events() if type(e).__name__ == "EndpointState"]
    return [(event.state, event.reason) for event in events]


# -- paused, resumed, cancelled at a bad moment ----------------------------------------------------


@pytest.mark.usefixtures("longest_waits")
@on_a_loop
async def test_a_restart_that_is_waited_for_can_be_paused_and_resumed(
    fake: Fake, server: hf.chaos.Server, tmp_path: Path
) -> None:
    fake.on_add = lambda _: dict(BROKEN)
    async with client_of(server, tmp_path, retry_delay=20) as client:
        gid = await client.add_download(server.url("/five"), tmp_path / "a")
        await until(lambda: client.get_retry_info(gid).history)
        assert client.get_progress(gid).status == "waiting"
        assert client.get_retry_info(gid).history[0].delay == 20
        assert await client.pause_download(gid)
        assert client.get_progress(gid).status == "paused"
        fake.on_add = lambda _: {"status": "active"}
        assert await client.resume_download(gid)  # at once, not after the wait
        await until(lambda: client.get_progress(gid).status == "active", 5)


@pytest.mark.usefixtures("longest_waits")
@on_a_loop
async def test_a_restart_that_is_waited_for_can_be_cancelled(
    fake: Fake, server: hf.chaos.Server, tmp_path: Path
) -> None:
    fake.on_add = lambda _: dict(BROKEN)
    async with client_of(server, tmp_path, retry_delay=20) as client:
        gid = await client.add_download(server.url("/five"), tmp_path / "a")
        await until(lambda: client.get_retry_info(gid).history)
        assert await client.cancel_download(gid)
        assert client.get_progress(gid).status == "removed"
    assert fake.calls["aria2.forceRemove"] == 0  # aria2 had nothing of it


@on_a_loop
async def test_what_waits_for_the_disk_can_be_paused_for_good_or_tried_at_once(
    fake: Fake, server: hf.chaos.Server, tmp_path: Path
) -> None:
    fake.on_add = lambda _: {"status": "error", "errorCode": "9", "errorMessage": "full"}
    async with client_of(server, tmp_path) as client:
        gid = await client.add_download(server.url("/five"), tmp_path / "a")
        await until(lambda: client.get_progress(gid).status == "paused")
        assert await client.pause_download(gid)
        fake.on_add = lambda _: {"status": "active"}
        assert await client.resume_download(gid)
        await until(lambda: client.get_progress(gid).status == "active", 4)


@on_a_loop
async def test_what_was_paused_stays_paused_over_a_restart_of_both_programs(
    fake: Fake, server: hf.chaos.Server, tmp_path: Path
) -> None:
    fake.do_forcePause = lambda gid: fake.statuses[gid].update(status="paused")
    async with client_of(server, tmp_path) as client:
        gid = await client.add_download(server.url("/five"), tmp_path / "a", {"pause": False})
        assert await client.pause_download(gid)
    fake.statuses.clear()
    async with client_of(server, tmp_path) as client:
        await until(lambda: client.get_progress(gid).status == "paused")
        assert fake.calls["aria2.addUri"] == 1
        assert await client.resume_download(gid)
        await until(lambda: client.get_progress(gid).status == "active")
    assert "pause" in fake.params["aria2.addUri"][0][1]
    assert "pause" not in fake.params["aria2.addUri"][1][1]


@on_a_loop
async def test_what_was_cancelled_while_the_service_was_away_is_removed_when_it_is_back(
    fake: Fake, server: hf.chaos.Server, tmp_path: Path
) -> None:
    async with client_of(server, tmp_path) as client:
        gid = await client.add_download(server.url("/five"), tmp_path / "a")
        server.shut()
        server.drop()
        await until(lambda: client.get_progress(gid).status == "suspended", 5)
        assert await client.cancel_download(gid)
        assert client.get_progress(gid).status == "removed"
        server.open()
        await until(lambda: fake.params.get("aria2.forceRemove") == [[gid]], 5)


# -- the service goes and comes --------------------------------------------------------------------


@on_a_loop
async def test_a_service_without_websocket_is_lost_after_two_refused_calls(
    fake: Fake, server: hf.chaos.Server, tmp_path: Path
) -> None:
    with hf.record() as recording:
        async with client_of(server, tmp_path) as client:
            gid = await client.add_download(server.url("/five"), tmp_path / "a")
            server.shut()
            server.drop()
            await until(lambda: client.get_progress(gid).status == "suspended", 5)
            server.open()
            await until(lambda: client.get_progress(gid).status == "active", 5)
    assert states(recording) == [("lost", "refused"), ("up", "reconciled")]
    assert fake.calls["aria2.addUri"] == 1


@on_a_loop
async def test_a_secret_that_changes_meanwhile_is_said(
    fake: Fake, server: hf.chaos.Server, tmp_path: Path
) -> None:
    with hf.record() as recording:
        async with client_of(server, tmp_path) as client:
            gid = await client.add_download(server.url("/five"), tmp_path / "a")
            fake.secret = "changed"
            await until(lambda: client.get_progress(gid).status == "suspended", 5)
            with pytest.raises(hf.HoldfastError) as caught:
                await client.add_download(server.url("/five"), tmp_path / "b")
            assert caught.value.code == "HF-1602"
    assert states(recording) == [("lost", "auth")]


@on_a_loop
async def test_a_download_that_failed_before_is_failed_again_when_it_cannot_be_added(
    fake: Fake, server: hf.chaos.Server, tmp_path: Path
) -> None:
    fake.on_add = lambda _: dict(BROKEN)
    async with client_of(server, tmp_path, max_retries=1) as client:
        gid = await client.add_download(server.url("/five"), tmp_path / "a")
        await ended(client, gid)

        def refuse(*_: Any) -> Any:
            raise ValueError("no")

        fake.do_addUri = refuse
        with pytest.raises(hf.HoldfastError):
            await client.add_download(server.url("/five"), tmp_path / "a")
        progress = client.get_progress(gid)
        assert (progress.status, progress.error_code) == ("error", "6")


# -- the origin ------------------------------------------------------------------------------------


@needs_aria2c
@on_a_loop
async def test_bytes_are_kept_while_the_origin_cannot_say_whether_they_are_still_right(
    daemon: Daemon, tmp_path: Path
) -> None:
    faults = [Reset(after_bytes=3 * MIB, skip=1, limit=1), Status(503, skip=2, limit=1)]
    with hf.chaos.server(Object("/a", 8 * MIB, faults=faults)) as server:
        async with daemon.client() as client:
            gid = await client.add_download(server.url("/a"), tmp_path / "a")
            (done,) = await ended(client, gid)
            assert done.status == "complete"
            assert [f.code for f in client.get_retry_info(gid).history] == ["1", "29"]
        assert [e.range for e in asked(server, "/a")] == ["", "bytes=3145728-8388607"]


@needs_aria2c
@on_a_loop
async def test_an_object_that_keeps_changing_is_given_up_after_the_third_time(
    daemon: Daemon, tmp_path: Path
) -> None:
    cut = Reset(after_bytes=MIB)
    with hf.chaos.server(Object("/a", 3 * MIB, faults=[cut])) as server:
        async with daemon.client(auto_restart_failed=False) as client:
            gid = await client.add_download(server.url("/a"), tmp_path / "a")
            await ended(client, gid)
            for _ in range(3):
                server.replace("/a")
                assert await client.restart_all_failed_downloads() == 1
                await ended(client, gid)
            progress = client.get_progress(gid)
            assert (progress.error_code, progress.error_message) == (
                "8",
                "the object changes while it is fetched",
            )
        assert [e.range for e in asked(server, "/a")] == ["", "", ""]


@needs_aria2c
@on_a_loop
async def test_an_object_that_changed_during_one_attempt_is_fetched_again(
    daemon: Daemon, tmp_path: Path
) -> None:
    with hf.chaos.server(Object("/a", 3 * MIB, faults=[Slow(6 * MIB)])) as server:
        async with daemon.client() as client:
            gid = await client.add_download(server.url("/a"), tmp_path / "a")
            await until(lambda: asked(server, "/a"))
            server.replace("/a")
            (done,) = await ended(client, gid)
            assert (done.status, client.get_retry_info(gid).history) == ("complete", ())
        assert len(asked(server, "/a")) == 2
        content = await content_of(tmp_path / "a")
        assert content == server.expected_bytes("/a", version=2)


async def content_of(path: Path) -> bytes:
    return await asyncio.to_thread(path.read_bytes)


@needs_aria2c
@on_a_loop
async def test_an_origin_that_takes_no_head_is_asked_by_a_get_of_one_byte(
    daemon: Daemon, tmp_path: Path
) -> None:
    class NoHead(Object):
        async def answer(self, request: Any) -> Any:
            if request.method == "HEAD":
                return hf.chaos.message.text_answer(403, "")
            return await super().answer(request)

    cut = Reset(after_bytes=3 * MIB, skip=2, limit=1)
    with hf.chaos.server(NoHead("/a", 8 * MIB, faults=[cut])) as server:
        async with daemon.client() as client:
            options = {"user-agent": "mine", "referer": "http://r/", "http-user": "u"}
            gid = await client.add_download(server.url("/a"), tmp_path / "a", options)
            (done,) = await ended(client, gid)
            assert done.status == "complete"
        ranges = [e.range for e in asked(server, "/a")]
        assert ranges.count("bytes=0-0") >= 2
        assert "bytes=3145728-8388607" in ranges


# -- files and journal -----------------------------------------------------------------------------


@on_a_loop
async def test_a_file_system_that_fails_ends_the_download_with_its_words(
    fake: Fake, server: hf.chaos.Server, tmp_path: Path
) -> None:
    async with client_of(server, tmp_path) as client:
        gid = await client.add_download(server.url("/five"), tmp_path / "a")
        await client.cancel_download(gid)
        (tmp_path / f".a.{gid[:8]}.part").mkdir()  # cannot be removed as a file
        await client.add_download(server.url("/five"), tmp_path / "a")
        progress = client.get_progress(gid)
        assert (progress.status, progress.error_code) == ("error", "17")
        assert "the file system failed" in progress.error_message


@on_a_loop
async def test_a_part_of_another_size_than_aria2_says_is_not_published(
    fake: Fake, server: hf.chaos.Server, tmp_path: Path
) -> None:
    fake.on_add = lambda _: {"status": "complete", "totalLength": "5", "completedLength": "5"}
    async with client_of(server, tmp_path, max_retries=0) as client:
        gid = await client.add_download(server.url("/five"), tmp_path / "gone")
        (gone,) = await ended(client, gid)
        assert (gone.status, gone.error_message) == ("error", "the part is gone")
        fake.on_add = lambda gid: (
            write(tmp_path / f".short.{gid[:8]}.part", b"123") or fake_complete()
        )
        gid = await client.add_download(server.url("/five"), tmp_path / "short")
        (short,) = await ended(client, gid)
        assert (short.status, short.error_code) == ("error", "7")
        assert "3 bytes, expected: 5" in short.error_message
    assert not (tmp_path / "short").exists()


def fake_complete() -> dict[str, str]:
    return {"status": "complete", "totalLength": "5", "completedLength": "5"}


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


@on_a_loop
async def test_a_file_that_appeared_meanwhile_is_not_replaced(
    fake: Fake, server: hf.chaos.Server, tmp_path: Path
) -> None:
    def complete(gid: str) -> dict[str, str]:
        write(tmp_path / f".a.{gid[:8]}.part", b"12345")
        write(tmp_path / "a", b"mine")
        return fake_complete()

    fake.on_add = complete
    async with client_of(server, tmp_path) as client:
        gid = await client.add_download(server.url("/five"), tmp_path / "a")
        (failed,) = await ended(client, gid)
        assert (failed.status, failed.error_code) == ("error", "13")
    assert (tmp_path / "a").read_bytes() == b"mine"


def test_a_journal_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "client.db").write_bytes(b"not a database" * 100)
    with pytest.raises(hf.HoldfastError) as caught:
        hf.Aria2Client(journal=tmp_path / "client.db")
    assert caught.value.code == "HF-1006"


@on_a_loop
async def test_a_row_that_makes_no_sense_refuses_the_journal(
    fake: Fake, server: hf.chaos.Server, tmp_path: Path
) -> None:
    async with client_of(server, tmp_path) as client:
        await client.add_download(server.url("/five"), tmp_path / "a")
    for statement in ("UPDATE item SET state = 'flying'", "UPDATE item SET urls = '[\"x\"]'"):
        with contextlib.closing(sqlite3.connect(tmp_path / "client.db")) as db, db:
            db.execute(statement)
        with pytest.raises(hf.HoldfastError, match="makes no sense") as caught:
            client_of(server, tmp_path)
        assert caught.value.code == "HF-1006"
    assert not (tmp_path / "client.db.lock").exists()


def test_a_journal_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(hf.HoldfastError) as caught:
        hf.Aria2Client(journal=tmp_path / "file" / "client.db")
    assert caught.value.code == "HF-1004"
