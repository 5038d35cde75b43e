"""The aria2 client against a real aria2c and a faulty origin: what ends well, and what is said."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

import pytest
from downloads_aria2_rig import MIB, Daemon, asked, ended, needs_aria2c, on_a_loop, until

import holdfast as hf
from holdfast.chaos import Handler, Object, Reset, Slow, Status

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = needs_aria2c


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path, "file-allocation=falloc", "auto-save-interval=1") as daemon:
        yield daemon


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def size(path: Path) -> int:
    return path.stat().st_size


def matching(directory: Path, pattern: str) -> list[Path]:
    return list(directory.glob(pattern))


def names(directory: Path) -> list[str]:
    own = ("client.db", "aria2.conf")
    return sorted(p.name for p in directory.iterdir() if not p.name.startswith(own))


def on_get(path: str, *answers: int, body: bytes = b"x" * 1000) -> Handler:
    """Return a route that answers the n-th GET with the n-th status, then 200; HEAD always 200."""
    left = list(answers)

    def answer(request: object) -> hf.chaos.Answer:
        if request.method == "GET" and left:
            return hf.chaos.message.text_answer(left.pop(0), "no\n")
        if request.method == "HEAD":
            return hf.chaos.Answer(200, {"ETag": '"1"'}, length=len(body))
        return hf.chaos.Answer(200, {"ETag": '"1"'}, hf.chaos.line.Plain(body))

    return Handler(path, answer)


@on_a_loop
async def test_a_cut_download_goes_on_where_it_stopped_although_the_file_was_allocated(
    daemon: Daemon, tmp_path: Path
) -> None:
    cut = Reset(after_bytes=3 * MIB, limit=1, skip=1)  # 1: our own look
    with hf.chaos.server(Object("/a.bin", 8 * MIB, faults=[cut])) as server:
        async with daemon.client() as client:
            gid = await client.add_download(server.url("/a.bin"), tmp_path / "a.bin")
            (done,) = await ended(client, gid)
        assert done.status == "complete"
        assert sha256(tmp_path / "a.bin") == server.expected_sha256("/a.bin")
        first, second = asked(server, "/a.bin")
        assert (first.range, second.range) == ("", "bytes=3145728-8388607")
        assert first.sent + second.sent == 8 * MIB  # nothing twice
    assert names(tmp_path) == ["a.bin"]
    assert (done.total_length, done.progress_percent, done.eta_seconds) == (8 * MIB, 100.0, 0.0)


@on_a_loop
async def test_a_missing_file_stays_failed_in_the_loop_that_restarts_what_failed(
    daemon: Daemon, tmp_path: Path
) -> None:
    with hf.chaos.server() as server:
        async with daemon.client() as client:
            gid = await client.add_download(server.url("/none"), tmp_path / "x")
            await ended(client, gid)
            for _ in range(5):
                assert client.get_progress(gid, auto_restart=True).status == "error"
                assert await client.restart_all_failed_downloads() == 0
            assert client.get_progress(gid).error_code == "3"
            info = client.get_retry_info(gid)
            assert (info.can_retry, info["can_retry"], info.retry_count) == (False, False, 0)
            assert await client._restart_failed_download(gid) is None
        assert len(asked(server, "/none")) == 1


@on_a_loop
async def test_an_overloaded_origin_is_asked_again_under_the_same_id(
    daemon: Daemon, tmp_path: Path
) -> None:
    with hf.chaos.server(on_get("/a", 503, 503)) as server:
        async with daemon.client() as client:
            gid = await client.add_download(server.url("/a"), tmp_path / "a")
            (done,) = await ended(client, gid)
            info = client.get_retry_info(gid)
        assert (done.status, done.gid) == ("complete", gid)
        assert info.retry_count == 2
        assert [failure.code for failure in info.history] == ["29", "29"]
        assert all(0 <= failure.delay <= 0.1 for failure in info.history)
        assert len(asked(server, "/a")) == 3


@on_a_loop
async def test_a_batch_is_completed_when_nothing_runs_or_may_be_restarted(
    daemon: Daemon, tmp_path: Path
) -> None:
    slow = Object("/slow", 600_000, faults=[Slow(400_000)])
    with hf.chaos.server(slow) as server:
        async with daemon.client() as client:
            batch = await client.add_batch_downloads(
                [(server.url("/none"), tmp_path / "n"), (server.url("/slow"), tmp_path / "s")],
                batch_id="both",
            )
            assert batch == "both"
            found = client.get_batch_progress(batch)
            gids = [each.gid for each in found.downloads]
            await until(lambda: client.get_progress(gids[0]).status == "error")
            found = client.get_batch_progress(batch)
            assert (found.is_completed, found.failed_count, found.active_count) == (False, 1, 1)
            await ended(client, *gids)
            found = client.get_batch_progress(batch)
        assert found.is_completed
        assert (found.completed_count, found.failed_count, found.active_count) == (1, 1, 0)
        assert (found.total_size, found.downloaded_size) == (600_000, 600_000)
        assert len(asked(server, "/none")) == 1


@on_a_loop
async def test_without_automatic_restarts_a_failure_waits_for_a_restart_by_hand(
    daemon: Daemon, tmp_path: Path
) -> None:
    with hf.chaos.server(on_get("/a", 503, 503)) as server:
        async with daemon.client(auto_restart_failed=False) as client:
            gid = (
                await client.add_batch_downloads([(server.url("/a"), tmp_path / "a")], "b")
            ) and (client.get_batch_progress("b").downloads[0].gid)
            await ended(client, gid)
            assert client.get_retry_info(gid).can_retry
            assert not client.get_batch_progress("b").is_completed
            assert await client.restart_all_failed_downloads() == 1
            await until(lambda: len(client.get_retry_info(gid).history) == 2)
            assert await client._restart_failed_download(gid) == gid
            (done,) = await ended(client, gid)
            assert (done.status, client.get_retry_info(gid).retry_count) == ("complete", 2)


@on_a_loop
async def test_restarts_without_progress_end_and_are_counted(
    daemon: Daemon, tmp_path: Path
) -> None:
    with hf.chaos.server(on_get("/a", *[503] * 20)) as server:
        async with daemon.client(max_retries=2) as client:
            gid = await client.add_download(server.url("/a"), tmp_path / "a")
            (failed,) = await ended(client, gid)
            info = client.get_retry_info(gid)
            assert (failed.status, failed.error_code) == ("error", "29")
            assert (info.retry_count, info.max_retries, info.can_retry) == (2, 2, False)
            assert await client.restart_all_failed_downloads() == 0
        assert len(asked(server, "/a")) == 3


@on_a_loop
async def test_progress_starts_the_count_of_restarts_afresh(daemon: Daemon, tmp_path: Path) -> None:
    cuts = [Reset(after_bytes=MIB + 1, share=1.0)]
    with hf.chaos.server(Object("/a", 7 * MIB, faults=cuts)) as server:
        async with daemon.client(max_retries=1, retry_delay=0.01) as client:
            gid = await client.add_download(server.url("/a"), tmp_path / "a")
            (done,) = await ended(client, gid, seconds=30)
            assert done.status == "complete"
            assert len(client.get_retry_info(gid).history) >= 4
        assert sha256(tmp_path / "a") == server.expected_sha256("/a")


@on_a_loop
async def test_an_object_that_changed_is_fetched_whole_in_its_new_version(
    daemon: Daemon, tmp_path: Path
) -> None:
    cut = Reset(after_bytes=3 * MIB, limit=1, skip=1)
    with hf.chaos.server(Object("/a", 8 * MIB, faults=[cut])) as server:
        async with daemon.client(retry_delay=1.0, auto_restart_failed=False) as client:
            gid = await client.add_download(server.url("/a"), tmp_path / "a")
            await ended(client, gid)
            server.replace("/a")
            assert await client.restart_all_failed_downloads() == 1
            (done,) = await ended(client, gid)
        assert done.status == "complete"
        assert sha256(tmp_path / "a") == server.expected_sha256("/a", version=2)
        assert asked(server, "/a")[1].range == ""


@pytest.mark.parametrize("left", [None, 0, 20], ids=["none", "empty", "cut"])
@on_a_loop
async def test_a_part_without_a_whole_control_file_is_not_taken_for_data(
    daemon: Daemon, tmp_path: Path, left: int | None
) -> None:
    cut = Reset(after_bytes=3 * MIB, limit=1, skip=1)
    with hf.chaos.server(Object("/a", 8 * MIB, faults=[cut])) as server:
        async with daemon.client(auto_restart_failed=False) as client:
            gid = await client.add_download(server.url("/a"), tmp_path / "a")
            await ended(client, gid)
            (control,) = matching(tmp_path, ".a.*.part.aria2")
            if left is None:  # what a crash before the first save leaves behind
                control.unlink()
            else:  # what a full disk leaves behind
                control.write_bytes(control.read_bytes()[:left])
            assert size(tmp_path / control.stem) == 8 * MIB
            await client.restart_all_failed_downloads()
            (done,) = await ended(client, gid)
        assert done.status == "complete"
        assert sha256(tmp_path / "a") == server.expected_sha256("/a")


@on_a_loop
async def test_a_body_without_a_framed_end_that_was_cut_is_not_complete(
    daemon: Daemon, tmp_path: Path
) -> None:
    whole = b"abcd" * 25_000
    gets = []

    def answer(request: object) -> hf.chaos.Answer:
        plain = hf.chaos.line.Plain(whole)
        if request.method == "HEAD":
            return hf.chaos.Answer(200, length=len(whole))
        if "range" in request.headers:  # our own look
            fields = {"Content-Range": f"bytes 0-0/{len(whole)}"}
            return hf.chaos.Answer(206, fields, plain, stop=1)
        gets.append(request.number)
        stop = 40_000 if len(gets) == 1 else None
        return hf.chaos.Answer(200, {}, plain, stop=stop, framing="close", close=True)

    with hf.chaos.server(Handler("/a", answer)) as server:
        async with daemon.client() as client:
            gid = await client.add_download(server.url("/a"), tmp_path / "a")
            (done,) = await ended(client, gid)
            assert done.status == "complete"
            assert [f.code for f in client.get_retry_info(gid).history] == ["7"]
    assert size(tmp_path / "a") == len(whole)


@on_a_loop
async def test_a_wrong_checksum_is_fetched_once_more_from_the_first_byte_and_fails(
    daemon: Daemon, tmp_path: Path
) -> None:
    with hf.chaos.server(Object("/a", 1000)) as server:
        async with daemon.client() as client:
            options = {"checksum": f"sha-256={'0' * 64}"}
            gid = await client.add_download(server.url("/a"), tmp_path / "a", options)
            (failed,) = await ended(client, gid)
            assert (failed.status, failed.error_code) == ("error", "32")
            assert not client.get_retry_info(gid).can_retry
        assert len(asked(server, "/a")) == 2
        assert names(tmp_path) == []


@on_a_loop
async def test_a_right_checksum_is_complete(daemon: Daemon, tmp_path: Path) -> None:
    with hf.chaos.server(Object("/a", 1000)) as server:
        async with daemon.client() as client:
            options = {"checksum": f"sha-256={server.expected_sha256('/a')}"}
            gid = await client.add_download(server.url("/a"), tmp_path / "a", options)
            (done,) = await ended(client, gid)
        assert done.status == "complete"


@on_a_loop
async def test_the_same_url_and_path_is_the_same_download(daemon: Daemon, tmp_path: Path) -> None:
    with hf.chaos.server(Object("/a", 1000)) as server:
        async with daemon.client() as client:
            first = await client.add_download(server.url("/a"), tmp_path / "a")
            await ended(client, first)
            again = await client.add_download(server.url("/a"), tmp_path / "a")
            assert (again, client.get_progress(again).status) == (first, "complete")
            assert len(asked(server, "/a")) == 1
            (tmp_path / "a").unlink()  # gone: fetched again
            assert await client.add_download(server.url("/a"), tmp_path / "a") == first
            await ended(client, first)
            assert len(asked(server, "/a")) == 2


@on_a_loop
async def test_a_file_of_another_is_not_touched(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")
    with hf.chaos.server(Object("/a", 1000)) as server:
        async with daemon.client() as client:
            gid = await client.add_download(server.url("/a"), tmp_path / "a")
            (failed,) = await ended(client, gid)
            assert (failed.status, failed.error_code) == ("error", "13")
            assert (tmp_path / "a").read_text() == "mine"
            options = {"allow-overwrite": True}
            assert await client.add_download(server.url("/a"), tmp_path / "a", options) == gid
            (done,) = await ended(client, gid)
        assert done.status == "complete"
        assert sha256(tmp_path / "a") == server.expected_sha256("/a")


@on_a_loop
async def test_two_downloads_into_one_file_are_refused_before_anything_happens(
    daemon: Daemon, tmp_path: Path
) -> None:
    with hf.chaos.server(Object("/a", 1000), Object("/b", 1000)) as server:
        async with daemon.client() as client:
            pairs = [(server.url("/a"), tmp_path / "x"), (server.url("/b"), tmp_path / "x")]
            with pytest.raises(hf.HoldfastError, match="same name") as caught:
                await client.add_batch_downloads(pairs)
            assert caught.value.code == "HF-1203"
            assert client.get_all_downloads() == []
        assert server.log == []


@on_a_loop
async def test_without_a_path_the_file_goes_where_the_service_puts_files(
    daemon: Daemon, tmp_path: Path
) -> None:
    with hf.chaos.server(Object("/dir/na me", 1000)) as server:
        async with daemon.client() as client:
            gid = await client.add_download(server.url("/dir/na%20me"))
            await ended(client, gid)
            assert client.get_file_path(gid) == str(tmp_path / "na me")
            assert client.get_all_file_paths() == {gid: str(tmp_path / "na me")}
        assert size(tmp_path / "na me") == 1000


@on_a_loop
async def test_paused_and_resumed_by_hand(daemon: Daemon, tmp_path: Path) -> None:
    with hf.chaos.server(Object("/a", 500_000, faults=[Slow(300_000)])) as server:
        async with daemon.client() as client:
            gid = await client.add_download(server.url("/a"), tmp_path / "a")
            assert await client.pause_download(gid)
            await until(lambda: client.get_progress(gid).status == "paused")
            assert await client.resume_download(gid)
            (done,) = await ended(client, gid)
            assert done.status == "complete"
            assert not await client.pause_download(gid)
            assert not await client.resume_download(gid)
            assert not await client.pause_download("0" * 16)
        assert sha256(tmp_path / "a") == server.expected_sha256("/a")


@on_a_loop
async def test_what_is_cancelled_is_out_of_aria2_and_can_be_added_again(
    daemon: Daemon, tmp_path: Path
) -> None:
    with hf.chaos.server(Object("/a", 2_000_000, faults=[Slow(400_000, limit=2)])) as server:
        async with daemon.client() as client:
            batch = await client.add_batch_downloads([(server.url("/a"), tmp_path / "a")])
            gid = client.get_batch_progress(batch).downloads[0].gid
            await until(lambda: client.get_progress(gid).status == "active")
            assert await client.cancel_batch(batch) == 1
            assert client.get_progress(gid).status == "removed"
            assert client.get_batch_progress(batch).is_completed
            assert not await client.cancel_download(gid)
            await until(lambda: client.get_global_stats().get("numActive") == 0)
            assert await client.add_download(server.url("/a"), tmp_path / "a") == gid
            (done,) = await ended(client, gid)
        assert done.status == "complete"
        assert sha256(tmp_path / "a") == server.expected_sha256("/a")


@on_a_loop
async def test_what_is_complete_is_forgotten_when_asked_and_the_files_stay(
    daemon: Daemon, tmp_path: Path
) -> None:
    with hf.chaos.server(Object("/a", 1000)) as server:
        async with daemon.client() as client:
            good = await client.add_download(server.url("/a"), tmp_path / "a")
            bad = await client.add_download(server.url("/none"), tmp_path / "b")
            await ended(client, good, bad)
            assert await client.cleanup_completed() == 1
            assert await client.cleanup_completed() == 0
            assert client.get_progress(good) is None
            assert client.get_retry_info(good) is None
            assert client.get_file_path(good) is None
            assert [each.gid for each in client.get_all_downloads()] == [bad]
    assert (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("route", "code", "restarts"),
    [
        (None, "3", 0),
        (Object("/x", 10, faults=[Status(403)]), "22", 0),
        (Object("/x", 10, faults=[Status(500)]), "22", 1),
        (Object("/x", 10, faults=[Status(429)]), "22", 1),
        (Object("/x", 10, faults=[Status(503)]), "29", 1),
        (Object("/x", 10, faults=[Status(401)]), "24", 0),
    ],
    ids=["404", "403", "500", "429", "503", "401"],
)
@on_a_loop
async def test_what_an_origin_answers_decides_about_restarts(
    daemon: Daemon, tmp_path: Path, route: Object | None, code: str, restarts: int
) -> None:
    with hf.chaos.server(*([] if route is None else [route])) as server:
        async with daemon.client(max_retries=1, retry_delay=0.01) as client:
            gid = await client.add_download(server.url("/x"), tmp_path / "x")
            (failed,) = await ended(client, gid)
            assert (failed.status, failed.error_code) == ("error", code)
            assert client.get_retry_info(gid).retry_count == restarts


@on_a_loop
async def test_what_stands_in_the_way_to_an_origin_decides_about_restarts(
    daemon: Daemon, tmp_path: Path
) -> None:
    async with daemon.client(max_retries=3, retry_delay=0.01) as client:
        refused = await client.add_download("http://127.0.0.1:1/x", tmp_path / "r")
        nameless = await client.add_download("http://name.invalid/x", tmp_path / "n")
        await ended(client, refused, nameless)
        assert client.get_progress(refused).error_code == "1"
        assert client.get_retry_info(refused).retry_count == 3
        assert client.get_progress(nameless).error_code == "19"
        assert client.get_retry_info(nameless).retry_count == 1  # a name: two attempts


@on_a_loop
async def test_an_origin_that_says_nothing_in_time_is_a_timeout(
    daemon: Daemon, tmp_path: Path
) -> None:
    silent = Object("/x", 2_000_000, faults=[hf.chaos.Stall(after_bytes=0, skip=1)])
    with hf.chaos.server(silent) as server:
        async with daemon.client(max_retries=0) as client:
            gid = await client.add_download(server.url("/x"), tmp_path / "x", {"timeout": 1})
            (failed,) = await ended(client, gid)
            assert (failed.status, failed.error_code) == ("error", "2")
            assert client.get_retry_info(gid).max_retries == 0


@on_a_loop
async def test_options_that_aria2_refuses_are_an_error_and_nothing_is_added(
    daemon: Daemon, tmp_path: Path
) -> None:
    with hf.chaos.server(Object("/a", 1000)) as server:
        async with daemon.client() as client:
            with pytest.raises(hf.HoldfastError, match="--split") as caught:
                await client.add_download(server.url("/a"), tmp_path / "a", {"split": "many"})
            assert caught.value.code == "HF-1603"
            assert [each.status for each in client.get_all_downloads()] == ["removed"]


@on_a_loop
async def test_service_that_was_killed_and_came_back_is_reconciled_and_all_finish(
    daemon: Daemon, tmp_path: Path
) -> None:
    routes = [Object(f"/{n}", 3 * MIB, faults=[Slow(MIB)]) for n in range(3)]
    with hf.chaos.server(*routes) as server, hf.record() as recording:
        async with daemon.client() as client:
            batch = await client.add_batch_downloads(
                [(server.url(f"/{n}"), tmp_path / str(n)) for n in range(3)]
            )
            view = client.get_batch_progress

            await until(lambda: all(d.completed_length for d in view(batch).downloads))
            daemon.kill()
            await until(lambda: all(d.status == "suspended" for d in view(batch).downloads), 5)
            assert not view(batch).is_completed
            with pytest.raises(hf.HoldfastError, match="no answer") as caught:
                await client.add_download(server.url("/0"), tmp_path / "other")
            assert caught.value.code == "HF-1601"
            await asyncio.sleep(1)
            daemon.start()
            await until(lambda: all(d.status == "complete" for d in view(batch).downloads), 30)
        for n in range(3):
            assert sha256(tmp_path / str(n)) == server.expected_sha256(f"/{n}")
    states = [
        (event.state, event.reason)
        for event in recording.events()
        if type(event).__name__ == "EndpointState"
    ]
    assert states == [("lost", "closed"), ("up", "reconciled")]


@on_a_loop
async def test_reading_a_thousand_times_changes_nothing(daemon: Daemon, tmp_path: Path) -> None:
    with hf.chaos.server(on_get("/a", *[503] * 9)) as server:
        async with daemon.client(auto_restart_failed=False) as client:
            gid = await client.add_download(server.url("/a"), tmp_path / "a")
            batch = await client.add_batch_downloads([(server.url("/a"), tmp_path / "a")], "b")
            await ended(client, gid)
            before = client.get_progress(gid), client.get_retry_info(gid)

            def read() -> None:
                for _ in range(1000):
                    client.get_progress(gid, auto_restart=True)
                    client.get_batch_progress(batch)
                    client.get_retry_info(gid)
                    client.get_all_downloads()

            await asyncio.get_running_loop().run_in_executor(None, read)
            assert (client.get_progress(gid), client.get_retry_info(gid)) == before
        assert len(asked(server, "/a")) == 1


@on_a_loop
async def test_options_can_be_used_again(daemon: Daemon, tmp_path: Path) -> None:
    options = {"split": 2, "header": ["X-A: 1"], "max-tries": "9"}
    copy = {"split": 2, "header": ["X-A: 1"], "max-tries": "9"}
    with hf.chaos.server(Object("/a", 1000), Object("/b", 1000)) as server:
        async with daemon.client() as client:
            for name in ("a", "b"):
                gid = await client.add_download(server.url(f"/{name}"), tmp_path / name, options)
                (done,) = await ended(client, gid)
                assert done.status == "complete"
    assert options == copy


@on_a_loop
async def test_the_secrets_of_a_download_reach_aria2_and_nothing_else(
    daemon: Daemon, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    canary = "canary7f3a9c"
    seen = []

    def answer(request: object) -> str:
        seen.append((request.target, request.headers.get("authorization")))
        return "x" * 100

    caplog.set_level("DEBUG", logger="holdfast")
    with hf.chaos.server(Handler("/a", answer)) as server:
        async with daemon.client() as client:
            url = server.url("/a") + f"?sig={canary}&part=1"
            options = {"header": f"Authorization: Bearer {canary}"}
            gid = await client.add_download(url, tmp_path / "a", options)
            await ended(client, gid)
            shown = repr([client, client.get_progress(gid), client.get_retry_info(gid)])
    assert ("/a?sig=canary7f3a9c&part=1", f"Bearer {canary}") in seen
    journal = b"".join(p.read_bytes() for p in matching(tmp_path, "client.db*"))
    text = shown + caplog.text + journal.decode("latin-1")
    assert canary not in text
    assert Daemon.secret not in text
    assert "part=1" in text
