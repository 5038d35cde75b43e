"""The aria2 client against a scripted service: silence, refusals, hangs, kills, and no mutation."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from downloads_aria2_rig import (
    MIB,
    Daemon,
    Fake,
    ended,
    free_port,
    needs_aria2c,
    on_a_loop,
    until,
)

import holdfast as hf
from holdfast.chaos import Handler, Object, Reset, Slow
from holdfast.downloads.aria2 import Aria2AuthError, Aria2Refused, Aria2Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

MUTATIONS = {"aria2.addUri", "aria2.removeDownloadResult", "aria2.forceRemove", "aria2.forcePause"}


@pytest.fixture
def fake() -> Fake:
    return Fake()


@pytest.fixture
def server(fake: Fake) -> Iterator[hf.chaos.Server]:
    objects = [Object("/a", 1000), Object("/b", 1000), Object("/five", 5)]
    with hf.chaos.server(fake.route(), *objects) as server:
        yield server


def client_of(server: hf.chaos.Server, tmp_path: Path, **options: Any) -> hf.Aria2Client:
    options.setdefault("journal", tmp_path / "client.db")
    options.setdefault("retry_delay", 0.02)
    return hf.Aria2Client(server.url("/jsonrpc"), **options)


# -- the service does not answer -----------------------------------------------------------------


def test_without_a_service_it_is_asked_after_0_1_and_3_seconds(
    tmp_path: Path, holdfast_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="holdfast.aria2")
    address = f"127.0.0.1:{free_port()}"
    began = holdfast_clock.monotonic()
    client = hf.Aria2Client(f"http://{address}/jsonrpc", journal=tmp_path / "client.db")
    with client, pytest.raises(Aria2Unavailable, match=address) as caught:
        asyncio.run(client.add_download("http://127.0.0.1/x", tmp_path / "x"))
    assert holdfast_clock.slept == [1.0, 2.0]
    assert holdfast_clock.monotonic() - began == pytest.approx(3.0)
    assert (caught.value.address, caught.value.attempts) == (address, 3)
    assert isinstance(caught.value.__cause__, OSError)
    lines = [record.getMessage() for record in caplog.records]
    assert [line[:24] for line in lines] == [
        "no answer (attempt 1/3):",
        "waits 1 s",
        "no answer (attempt 2/3):",
        "waits 2 s",
        "no answer (attempt 3/3):",
    ]
    assert client.get_all_downloads() == []


@on_a_loop
async def test_a_wrong_secret_is_tried_once(
    fake: Fake, server: hf.chaos.Server, tmp_path: Path
) -> None:
    fake.secret = "right"
    async with client_of(server, tmp_path, secret="wrong-secret-1") as client:
        with pytest.raises(Aria2AuthError, match="secret") as caught:
            await client.add_download(server.url("/a"), tmp_path / "a")
    assert caught.value.code == "HF-1602"
    assert "wrong-secret-1" not in str(caught.value)
    assert fake.calls == {"aria2.getVersion": 1}


@on_a_loop
async def test_either_name_of_the_secret_is_taken(
    fake: Fake, server: hf.chaos.Server, tmp_path: Path
) -> None:
    fake.secret = "right"
    for number, name in enumerate(["secret", "rpc_secret"]):
        journal = tmp_path / f"{number}.db"
        async with client_of(server, tmp_path, journal=journal, **{name: "right"}) as client:
            await client.add_download(server.url("/a"), tmp_path / name)
    assert fake.calls["aria2.addUri"] == 2


@on_a_loop
async def test_a_server_that_is_not_aria2_is_said_to_give_no_answer(tmp_path: Path) -> None:
    with hf.chaos.server(Handler("/jsonrpc", lambda _: "<html>hello</html>")) as server:
        async with client_of(server, tmp_path, max_retries=1) as client:
            with pytest.raises(Aria2Unavailable, match="not an answer of aria2"):
                await client.add_download(server.url("/a"), tmp_path / "a")


@on_a_loop
async def test_a_service_that_hangs_delays_no_loop_and_no_reader(
    fake: Fake, server: hf.chaos.Server, tmp_path: Path
) -> None:
    async def worst_delay(gid: str, name: str) -> float:
        """Return the longest step of this loop while a call hangs for half a second."""
        fake.hang = 0.5
        adding = asyncio.ensure_future(client.add_download(server.url("/b"), tmp_path / name))
        worst, end = 0.0, time.monotonic() + 0.5
        while time.monotonic() < end:
            began = time.monotonic()
            await asyncio.sleep(0)
            client.get_progress(gid)
            client.get_global_stats()
            worst = max(worst, time.monotonic() - began)
            await asyncio.sleep(0.002)
        fake.hang = 0.0
        await adding
        return worst

    async with client_of(server, tmp_path) as client:
        gid = await client.add_download(server.url("/a"), tmp_path / "a")
        # A busy machine may hold us up once; a client that blocks does so each time.
        assert min([await worst_delay(gid, name) for name in "xyz"]) < 0.05


@on_a_loop
async def test_a_call_that_is_cancelled_ends_at_once_and_adds_nothing(
    fake: Fake, server: hf.chaos.Server, tmp_path: Path
) -> None:
    async with client_of(server, tmp_path) as client:
        await client.add_download(server.url("/a"), tmp_path / "a")
        fake.hang = 5.0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await client.add_download(server.url("/b"), tmp_path / "b")
        fake.hang = 0.0
        await until(lambda: client.get_all_downloads()[-1].status == "removed", 2)


@on_a_loop
async def test_a_deadline_of_the_caller_ends_the_waits(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}/jsonrpc"
    async with hf.Aria2Client(url, retry_delay=30, journal=tmp_path / "j.db") as client:
        began = time.monotonic()
        with hf.deadline(0.3), pytest.raises(hf.HoldfastError):
            await client.add_download("http://127.0.0.1:1/x", tmp_path / "x")
        assert time.monotonic() - began < 5.0  # and not the 30 s of the wait


# -- what it tells the service ---------------------------------------------------------------------


@on_a_loop
async def test_reads_at_any_rate_tell_the_service_nothing(
    fake: Fake, server: hf.chaos.Server, tmp_path: Path
) -> None:
    fake.on_add = lambda _: {"status": "error", "errorCode": "6", "errorMessage": "network"}
    async with client_of(server, tmp_path, auto_restart_failed=False) as client:
        gid = await client.add_download(server.url("/a"), tmp_path / "a")
        await ended(client, gid)
        before = {name: fake.calls[name] for name in MUTATIONS}
        for _ in range(10):
            for _ in range(100):
                client.get_progress(gid, auto_restart=True)
                client.get_batch_progress("none")
                client.get_retry_info(gid)
            await asyncio.sleep(0.01)
        assert {name: fake.calls[name] for name in MUTATIONS} == before
        assert before["aria2.addUri"] == 1


@on_a_loop
async def test_every_attempt_gets_all_mirrors_the_same_gid_and_no_retries_of_aria2(
    fake: Fake, server: hf.chaos.Server, tmp_path: Path
) -> None:
    fake.on_add = lambda _: {"status": "error", "errorCode": "6", "errorMessage": "network"}
    urls = [server.url("/a"), server.url("/b")]
    options = {"split": 4, "max-tries": 7, "gid": "f" * 16, "header": "X-A: 1"}
    async with client_of(server, tmp_path, max_retries=2) as client:
        gid = await client.add_download(urls, tmp_path / "a", options)
        await ended(client, gid)
    assert len(fake.params["aria2.addUri"]) == 3
    for uris, given in fake.params["aria2.addUri"]:
        assert uris == urls
        assert given["gid"] == gid
        assert (given["split"], given["header"], given["max-tries"]) == ("4", ["X-A: 1"], "1")
        assert given["dir"] == str(tmp_path)
        assert given["out"] == f".a.{gid[:8]}.part"
    assert len(fake.params["aria2.removeDownloadResult"]) == 2


@on_a_loop
async def test_an_add_whose_answer_was_lost_is_not_added_twice(
    fake: Fake, server: hf.chaos.Server, tmp_path: Path
) -> None:
    executed: list[str] = []
    really = fake.do_addUri

    def lost_once(uris: list[str], options: dict[str, Any]) -> Any:
        result = really(uris, options)
        if not executed:
            executed.append(result)
            raise LookupError("the connection dies before the answer")
        return result

    fake.do_addUri = lost_once
    with hf.chaos.proxy(server.address) as proxy:
        original = fake._answer

        async def answer(request: Any) -> Any:
            try:
                return await original(request)
            except LookupError:
                proxy.drop()
                return "never seen"

        server.route("/jsonrpc").function = answer
        url = f"http://{proxy.address}/jsonrpc"
        async with hf.Aria2Client(url, journal=tmp_path / "j.db", retry_delay=0.02) as client:
            gid = await client.add_download(server.url("/a"), tmp_path / "a")
            assert client.get_progress(gid).status in {"waiting", "active"}
    assert executed == [gid]
    assert fake.calls["aria2.addUri"] == 2  # the second one was refused: aria2 had it


@on_a_loop
async def test_a_full_disk_pauses_and_goes_on_when_there_is_room(
    fake: Fake, server: hf.chaos.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.downloads.aria2.supervisor.DISK_EVERY", 0.05)
    room: list[bool] = []
    monkeypatch.setattr("holdfast.downloads.aria2.parts.Parts.has_room", lambda *_: bool(room))
    full = {"status": "error", "errorCode": "9", "errorMessage": "no space left"}
    fake.on_add = lambda _: dict(full) if not room else {"status": "active"}
    async with client_of(server, tmp_path) as client:
        gid = await client.add_download(server.url("/a"), tmp_path / "a")
        await until(lambda: client.get_progress(gid).status == "paused")
        assert client.get_progress(gid).error_code == "9"
        await asyncio.sleep(0.3)
        assert fake.calls["aria2.addUri"] == 1
        room.append(True)
        await until(lambda: client.get_progress(gid).status == "active")
        assert client.get_retry_info(gid).retry_count == 0


@on_a_loop
async def test_a_service_elsewhere_gets_the_name_itself_and_our_files_are_left_alone(
    fake: Fake, server: hf.chaos.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.downloads.aria2.core.is_here", lambda _: False)
    fake.on_add = lambda _: {"status": "complete", "totalLength": "5", "completedLength": "5"}
    async with client_of(server, tmp_path) as client:
        gid = await client.add_download(server.url("/five"), "data/a.nc")
        (done,) = await ended(client, gid)
        assert (done.status, done.file_path) == ("complete", "/nowhere/data/a.nc")
        given = fake.params["aria2.addUri"][0][1]
        assert (given["dir"], given["out"]) == ("/nowhere/data", "a.nc")
        # No word of the length of a file that we cannot see.
        assert (given["continue"], given["remove-control-file"]) == ("false", "true")


@on_a_loop
async def test_what_the_service_forgot_is_added_again(
    fake: Fake, server: hf.chaos.Server, tmp_path: Path
) -> None:
    async with client_of(server, tmp_path) as client:
        gid = await client.add_download(server.url("/a"), tmp_path / "a")
        fake.statuses.clear()
        await until(lambda: gid in fake.statuses, 5)
        assert fake.calls["aria2.addUri"] == 2
        assert client.get_retry_info(gid).history == ()


@on_a_loop
async def test_what_was_removed_there_is_removed_here(
    fake: Fake, server: hf.chaos.Server, tmp_path: Path
) -> None:
    async with client_of(server, tmp_path) as client:
        gid = await client.add_download(server.url("/a"), tmp_path / "a")
        fake.statuses[gid]["status"] = "removed"
        (removed,) = await ended(client, gid)
        assert removed.status == "removed"
        assert client.get_global_stats() == {"downloadSpeed": 7, "numActive": 1}


# -- the client dies -------------------------------------------------------------------------------


def run_until_ready_and_kill(command: list[str]) -> None:
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        os.kill(process.pid, signal.SIGKILL)


@needs_aria2c
@on_a_loop
async def test_a_killed_program_finds_batch_ids_and_history_again(tmp_path: Path) -> None:
    routes = [
        Object(
            "/0", 3 * MIB, faults=[Slow(1.5 * MIB), Reset(after_bytes=MIB // 2, limit=1, skip=1)]
        ),
        Object("/1", 3 * MIB, faults=[Slow(1.5 * MIB)]),
    ]
    program = Path(__file__).with_name("downloads_aria2_killed.py")
    with Daemon(tmp_path) as daemon, hf.chaos.server(*routes) as server:
        journal = tmp_path / "client.db"
        pairs = [f"{server.url(f'/{n}')}|{tmp_path / str(n)}" for n in range(2)]
        command = [sys.executable, str(program), daemon.url, daemon.secret, str(journal), *pairs]
        await asyncio.to_thread(run_until_ready_and_kill, command)
        async with daemon.client(journal=journal) as client:
            found = client.get_batch_progress("night")
            gids = [each.gid for each in found.downloads]
            assert len(gids) == 2
            assert [f.code for f in client.get_retry_info(gids[0]).history] == ["1"]
            done = await ended(client, *gids)
            assert [each.status for each in done] == ["complete", "complete"]
            assert client.get_batch_progress("night").is_completed
        for n in range(2):
            content = (tmp_path / str(n)).read_bytes()
            assert content == server.expected_bytes(f"/{n}")
        async with daemon.client(journal=journal) as client:  # what is over stays known
            assert client.get_batch_progress("night").completed_count == 2


@on_a_loop
async def test_a_signed_address_is_asked_for_again_after_a_restart(
    fake: Fake, server: hf.chaos.Server, tmp_path: Path
) -> None:
    async with client_of(server, tmp_path) as client:
        gid = await client.add_download(server.url("/a") + "?sig=abc", tmp_path / "a")
    fake.statuses.clear()
    async with client_of(server, tmp_path) as client:
        (failed,) = await ended(client, gid)
        assert (failed.status, failed.error_code) == ("error", "24")
        assert await client.add_download(server.url("/a") + "?sig=def", tmp_path / "a") == gid
        assert fake.params["aria2.addUri"][-1][0] == [server.url("/a") + "?sig=def"]


def test_one_client_at_a_time_uses_a_journal(server: hf.chaos.Server, tmp_path: Path) -> None:
    with client_of(server, tmp_path), pytest.raises(hf.HoldfastError) as caught:
        client_of(server, tmp_path)
    assert (caught.value.code, caught.value.exit_code) == ("HF-1005", 75)
    client_of(server, tmp_path).close()


def test_the_journal_is_in_the_state_directory_by_default(
    server: hf.chaos.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_STATE_DIR", str(tmp_path / "state"))
    with hf.Aria2Client(server.url("/jsonrpc")):
        assert (tmp_path / "state" / "aria2.db").exists()
    monkeypatch.delenv("HOLDFAST_STATE_DIR")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    with hf.Aria2Client(server.url("/jsonrpc")):
        assert (tmp_path / "xdg" / "holdfast" / "aria2.db").exists()


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


@on_a_loop
async def test_a_client_that_nobody_holds_ends_its_thread(
    fake: Fake, server: hf.chaos.Server, tmp_path: Path
) -> None:
    client = client_of(server, tmp_path)
    await client.add_download(server.url("/a"), tmp_path / "a")
    assert "holdfast-aria2" in threads()
    del client
    gc.collect()
    await until(lambda: "holdfast-aria2" not in threads(), 5)


@on_a_loop
async def test_a_closed_client_still_says_what_was_and_does_no_more(
    fake: Fake, server: hf.chaos.Server, tmp_path: Path
) -> None:
    client = client_of(server, tmp_path)
    gid = await client.add_download(server.url("/a"), tmp_path / "a")
    await client.aclose()
    await client.aclose()
    client.close()
    assert client.get_progress(gid) is not None
    with pytest.raises(RuntimeError, match="closed"):
        await client.cancel_download(gid)


@on_a_loop
async def test_unknown_ids_are_none_and_nothing_else_is(
    server: hf.chaos.Server, tmp_path: Path
) -> None:
    async with client_of(server, tmp_path) as client:
        assert client.get_progress("0123456789abcdef") is None
        assert client.get_batch_progress("x") is None
        assert client.get_retry_info("x") is None
        assert client.get_file_path("x") is None
        assert not await client.cancel_download("x")
        assert await client.cancel_batch("x") == 0
        assert not await client.resume_download("x")
        assert client.get_global_stats() == {}


@pytest.mark.parametrize(
    "options",
    [
        {"rpc_url": "ftp://host/jsonrpc"},
        {"rpc_url": "http://user:secret@host/jsonrpc"},
        {"max_retries": -1},
        {"retry_delay": -0.5},
        {"retry_delay": "soon"},
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(hf.HoldfastError) as caught:
        hf.Aria2Client(**{"journal": tmp_path / "j.db", **options})
    assert caught.value.code in {"HF-1001", "HF-1003"}
    assert "secret@" not in str(caught.value)
    assert not (tmp_path / "j.db.lock").exists()


@on_a_loop
async def test_urls_and_options_that_cannot_be_are_refused_before_any_call(
    fake: Fake, server: hf.chaos.Server, tmp_path: Path
) -> None:
    async with client_of(server, tmp_path) as client:
        for url, options, code in [
            ("magnet:?xt=1", None, "HF-1001"),
            ([], None, "HF-1003"),
            (server.url("/a"), {"split": None}, "HF-1003"),
        ]:
            with pytest.raises(hf.HoldfastError) as caught:
                await client.add_download(url, tmp_path / "a", options)
            assert caught.value.code == code
    assert fake.calls == {}


@on_a_loop
async def test_a_refusal_names_the_call_and_aria2s_words(
    fake: Fake, server: hf.chaos.Server, tmp_path: Path
) -> None:
    def refuse(*_: Any) -> Any:
        raise ValueError("We encountered a problem")

    fake.do_addUri = refuse
    async with client_of(server, tmp_path) as client:
        with pytest.raises(Aria2Refused, match=r"addUri.*We encountered") as caught:
            await client.add_download(server.url("/a"), tmp_path / "a")
        assert (caught.value.method, caught.value.reason) == (
            "aria2.addUri",
            "We encountered a problem",
        )
        batch = await client.add_batch_downloads([(server.url("/b"), tmp_path / "b")])
        gid = client.get_batch_progress(batch).downloads[0].gid
        (failed,) = await ended(client, gid)
        assert (failed.error_code, failed.error_message) == ("28", "We encountered a problem")


@on_a_loop
async def test_a_program_killed_before_the_rename_gives_the_file_its_name_later(
    fake: Fake, server: hf.chaos.Server, tmp_path: Path
) -> None:
    async with client_of(server, tmp_path) as client:
        gid = await client.add_download(server.url("/five"), tmp_path / "a")
    part = tmp_path / f".a.{gid[:8]}.part"
    fake.statuses[gid] |= {"status": "complete", "totalLength": "5", "completedLength": "5"}
    for there in (part, tmp_path / "a"):  # before the rename, and between it and its commit
        set_state(tmp_path / "client.db", "finishing", 5)
        for path in (part, tmp_path / "a"):
            path.unlink(missing_ok=True)
        there.write_bytes(b"12345")
        async with client_of(server, tmp_path) as client:
            (done,) = await ended(client, gid)
            assert (done.status, done.completed_length) == ("complete", 5)
        assert (tmp_path / "a").read_bytes() == b"12345"
        assert not part.exists()
    assert fake.calls["aria2.addUri"] == 1


def set_state(journal: Path, state: str, total: int) -> None:
    with contextlib.closing(sqlite3.connect(journal)) as db, db:
        db.execute("UPDATE item SET state = ?, total = ?, completed = ?", (state, total, total))
