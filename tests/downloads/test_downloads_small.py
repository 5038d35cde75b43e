"""Small files on the lane: each answer ends there as it does on the threads."""

from __future__ import annotations

import base64
import hashlib
import time
from typing import TYPE_CHECKING, Any

import pytest
from downloads_rig import Heard, Running, downloads, names_in, quick_policy, until
from downloads_script_server import Say, ScriptServer, ok

import holdfast as hf
import holdfast.downloads.small_threads
import holdfast.downloads.smallrun
from holdfast.transfer.plane import Timeouts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

KIB = 1024
BODY = bytes(range(256)) * 80
OTHER = bytes(reversed(range(256))) * 80
SHA = hashlib.sha256(BODY).hexdigest()
GOOD = Say(ok(BODY, 'ETag: "v1"', "Last-Modified: Tue, 14 Nov 2023 22:13:20 GMT"))


def chunked(*pieces: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body + end


def repr_digest(body: bytes) -> str:
    return "Repr-Digest: sha-256=:" + base64.b64encode(hashlib.sha256(body).digest()).decode() + ":"


def md5(body: bytes) -> str:
    return "Content-MD5: " + base64.b64encode(hashlib.md5(body).digest()).decode()


def cut(at: int) -> bytes:
    return GOOD.data[:at]


HEAD = len(GOOD.data) - len(BODY)
ANSWERS: dict[str, Sequence[Say]] = {
    "good": [GOOD],
    "empty": [Say(ok(b""))],
    "one byte": [Say(ok(b"x"))],
    "chunked": [Say(chunked(BODY[:100], BODY[100:]))],
    "chunked with trailer": [Say(chunked(BODY, end=b"0\r\nX: y\r\n\r\n"))],
    "close-delimited": [Say(b"HTTP/1.1 200 OK\r\n\r\n" + BODY, "fin")],
    "http 1.0": [Say(b"HTTP/1.0 200 OK\r\nContent-Length: 20480\r\n\r\n" + BODY, "fin")],
    "lf only": [Say(b"HTTP/1.1 200 OK\nContent-Length: 20480\n\n" + BODY)],
    "early hints": [Say(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + GOOD.data)],
    "connection: close": [Say(ok(BODY, "Connection: close"), "fin")],
    "repr-digest": [Say(ok(BODY, repr_digest(BODY)))],
    "wrong repr-digest, then right": [Say(ok(BODY, repr_digest(OTHER))), GOOD],
    "wrong repr-digest": [Say(ok(BODY, repr_digest(OTHER)))],
    "content-md5": [Say(ok(BODY, md5(BODY)))],
    "wrong content-md5": [Say(ok(BODY, md5(OTHER)))],
    "gzip": [Say(ok(BODY, "Content-Encoding: gzip"))],
    "identity": [Say(ok(BODY, "Content-Encoding: identity"))],
    "html": [Say(ok(BODY, "Content-Type: text/html"))],
    "json": [Say(ok(BODY, "Content-Type: application/json; charset=utf-8"))],
    "surplus": [Say(GOOD.data + b"surplus")],
    "200 with content-range": [Say(ok(BODY, "Content-Range: bytes 0-20479/20480"))],
    "200 from the middle": [Say(ok(BODY, "Content-Range: bytes 5-20484/30000")), GOOD],
    "206 unasked": [Say(ok(BODY, status="206 Partial Content")), GOOD],
    "204": [Say(b"HTTP/1.1 204 No Content\r\n\r\n")],
    "203": [Say(ok(BODY, status="203 Non-Authoritative Information"))],
    "304": [Say(b"HTTP/1.1 304 Not Modified\r\n\r\n")],
    "101": [Say(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", "fin")],
    "404": [Say(ok(b"no\n", status="404 Not Found"))],
    "404 chunked": [Say(chunked(b"no").replace(b"200 OK", b"404 No"))],
    "403": [Say(ok(b"no\n", status="403 Forbidden"))],
    "401": [Say(ok(b"no\n", status="401 Unauthorized"))],
    "410 cut": [Say(b"HTTP/1.1 410 Gone\r\nContent-Length: 500\r\n\r\nno", "fin")],
    "500 for ever": [Say(ok(b"no\n", status="500 Oops"))],
    "503, then good": [Say(ok(b"no\n", status="503 Busy")), GOOD],
    "429, then good": [Say(ok(b"no\n", "Retry-After: 0", status="429 Slow")), GOOD],
    "503 for hours": [Say(ok(b"", "Retry-After: 7200", status="503 Busy"))],
    "416": [Say(ok(b"", status="416 Range"))],
    "412": [Say(ok(b"", status="412 Precondition Failed"))],
    "redirect": [Say(ok(b"", "Location: /other", status="302 Found"))],
    "redirect without location": [Say(ok(b"", status="302 Found"))],
    "redirect in a circle": [Say(ok(b"", "Location: /x", status="301 Moved"))],
    "rst at once": [Say(b"", "rst"), GOOD],
    "rst for ever": [Say(b"", "rst")],
    "fin at once": [Say(b"", "fin"), GOOD],
    "fin in the head": [Say(cut(20), "fin"), GOOD],
    "rst in the head": [Say(cut(20), "rst"), GOOD],
    "fin after the head": [Say(cut(HEAD), "fin"), GOOD],
    "fin in the body": [Say(cut(HEAD + 7777), "fin"), GOOD],
    "fin in the body, for ever": [Say(cut(HEAD + 7777), "fin")],
    "stall in the head": [Say(cut(20), "stall"), GOOD],
    "stall in the body": [Say(cut(HEAD + 99), "stall"), GOOD],
    "chunks cut": [Say(chunked(BODY[:5000], end=b""), "fin"), GOOD],
    "bad chunk": [Say(chunked(BODY[:5000], end=b"zz\r\n"), "fin"), GOOD],
    "not http": [Say(b"SSH-2.0-OpenSSH_9.2\r\n", "fin")],
    "not http, more of it": [Say(b"220 ftp.example ready\r\n\r\n", "fin")],
    "two lengths": [Say(ok(BODY, "Content-Length: 5"), "fin"), GOOD],
    "gzip transfer coding": [
        Say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n" + BODY, "fin"),
        GOOD,
    ],
    "head of 70 KiB": [Say(ok(BODY, "X: " + "x" * 70 * KIB), "fin"), GOOD],
    "head of 60 KiB": [Say(ok(BODY, "X: " + "x" * 60 * KIB))],
    "large": [Say(ok(BODY * 250))],
    "200 KiB": [Say(ok(BODY * 10))],
    "chunked 200 KiB": [Say(chunked(*[BODY] * 10))],
    "close-delimited 200 KiB": [Say(b"HTTP/1.1 200 OK\r\n\r\n" + BODY * 10, "fin")],
    "close-delimited, large": [Say(b"HTTP/1.1 200 OK\r\n\r\n" + BODY * 250, "fin")],
    "chunked, large": [Say(chunked(*[BODY] * 250))],
}
PROMISES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "size": {"size": len(BODY)},
    "sha256": {"sha256": SHA},
    "wrong size": {"size": 7},
    "wrong sha256": {"sha256": hashlib.sha256(OTHER).hexdigest()},
}


def outcome(
    plane: str, into: Path, script: Sequence[Say], path: str = "x.bin", **promised: Any
) -> dict[str, Any]:
    """Fetch one file, and return all that may be compared."""
    scripts = {"/x": script, "/other": [GOOD]}
    timeouts = Timeouts(connect=2, first_byte=0.6, idle=0.4)
    with (
        ScriptServer(scripts) as server,
        downloads(into, plane=plane, policy=quick_policy(3), timeouts=timeouts) as d,
    ):
        d.add(server.url + "/x", path=path, **promised)
        report = d.run()
        (item,) = d.status().items
        asked = server.count("/x")
    file = into / path
    pinned = item.standing.pinned
    beyond = len(script[0].data) > 4 << 20 and b"Content-Length" not in script[0].data[:200]
    return {
        "state": item.state,
        "reason": item.failure.reason if item.failure else "",
        "verified": (item.verified, item.digest, item.vouched_by, item.ignored),
        "size": item.known_size,
        "seen": pinned and (pinned.etag, pinned.last_modified, pinned.media_type),
        "attempts": item.attempts,
        # What turned out to be large without having said so is asked for again by the threads.
        "asked": 0 if beyond or (item.known_size or 0) > 4 << 20 else asked,
        "body": file.read_bytes() if file.exists() else None,
        "exit": report.exit_code,
        "counts": (report.done, report.skipped, len(report.failed), report.left, report.unverified),
        "names": [name.replace(item.id[:8], "ID") for name in names_in(into)],
    }


# A stall takes its time, and what was promised plays no part in it.
CASES = [
    (answer, promise)
    for answer in ANSWERS
    for promise in PROMISES
    if promise == "nothing" or "stall" not in answer
]


@pytest.mark.parametrize(("answer", "promise"), CASES)
def test_each_answer_ends_as_on_the_threads(answer: str, promise: str, tmp_path: Path) -> None:
    found = {
        plane: outcome(plane, tmp_path / plane, ANSWERS[answer], **PROMISES[promise])
        for plane in ("threads", "asyncio")
    }
    assert found["asyncio"] == found["threads"]


@pytest.mark.parametrize("answer", ANSWERS)
def test_small_files_of_the_threads_end_as_all_others(
    answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = outcome("threads", tmp_path / "usual", ANSWERS[answer])
    monkeypatch.setattr(holdfast.downloads.smallrun, "MANY", 1)
    monkeypatch.setattr(holdfast.downloads.small_threads, "IN_A_ROW", 0)
    assert outcome("threads", tmp_path / "small", ANSWERS[answer]) == usual


@pytest.mark.parametrize("path", ["x.nc", "x.html"])
def test_a_page_behind_a_redirect_ends_as_on_the_threads(path: str, tmp_path: Path) -> None:
    scripts = {
        "/x": [Say(ok(b"", "Location: http://localhost:PORT/login", status="302 Found"))],
        "/login": [Say(ok(b"<html>", "Content-Type: text/html"))],
    }
    found = []
    for plane in ("threads", "asyncio"):
        with ScriptServer(dict(scripts)) as server:
            port = str(server.port).encode()
            said = scripts["/x"][0].data.replace(b"PORT", port)
            server.scripts["/x"] = [Say(said)]
            with downloads(tmp_path / plane, plane=plane, policy=quick_policy(2)) as d:
                d.add(server.url + "/x", path=path)
                report = d.run()
        found.append((report.done, [(item.reason, item.attempts) for item in report.failed]))
    assert found[0] == found[1]


@pytest.fixture(params=["asyncio", "threads"])
def plane(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# -- many ------------------------------------------------------------------------------------------


def content_of(server: hf.chaos.Server, path: str, version: int = 1) -> bytes:
    route = next(route for route in server.routes if route.matches(path))
    assert isinstance(route, hf.chaos.Object)
    return route.content(path, version).read()


def added(d: hf.Downloads, server: hf.chaos.Server, count: int) -> None:
    d.add_many([server.url(f"/f/{n:04}") for n in range(count)])


def test_thousands_of_files_need_few_connections_and_no_thread_each(
    plane: str, tmp_path: Path
) -> None:
    with hf.chaos.server(hf.chaos.Object("/f/*", 3000)) as server:
        with downloads(tmp_path, plane=plane, workers=3) as d:
            added(d, server, 2000)
            report = d.run()
        assert (report.done, report.exit_code, report.waste) == (2000, 0, 0)
        assert (report.fetched, report.bytes) == (2000 * 3000, 2000 * 3000)
        assert len(names_in(tmp_path)) == 2000
        assert server.stats.requests == 2000
        # On the threads the first files show that those of this origin are small.
        assert server.stats.connections <= (3 if plane == "asyncio" else 20)
        for n in (0, 7, 1999):
            expected = content_of(server, f"/f/{n:04}")
            assert (tmp_path / f"{n:04}").read_bytes() == expected
        assert server.stats.bytes_down == 2000 * 3000


def test_a_second_run_skips_them_all(plane: str, tmp_path: Path) -> None:
    with hf.chaos.server(hf.chaos.Object("/f/*", 100)) as server:
        for _ in range(2):
            with downloads(tmp_path, plane=plane) as d:
                added(d, server, 100)
                report = d.run()
        assert (report.done, report.skipped) == (0, 100)
        assert server.stats.requests == 100


FAULTS: dict[str, list[hf.chaos.Fault]] = {
    "resets": [hf.chaos.Reset(mean_bytes=200_000)],
    "ends": [hf.chaos.Fin(mean_bytes=200_000)],
    "bursts": [hf.chaos.Status(503, share=0.05, burst=3)],
    "interim": [hf.chaos.Interim(share=0.3)],
    "surplus": [hf.chaos.Surplus(share=0.2)],
    "idle closes": [hf.chaos.IdleClose(at_most=0.002)],
    "replaced": [hf.chaos.Replace(after_bytes=100_000), hf.chaos.Reset(mean_bytes=100_000)],
}


@pytest.mark.parametrize("kind", FAULTS)
def test_whatever_breaks_all_files_are_right(kind: str, plane: str, tmp_path: Path) -> None:
    count, size = 150, 10_000
    with hf.chaos.server(hf.chaos.Object("/f/*", size), faults=FAULTS[kind], seed=4) as server:
        with downloads(tmp_path, plane=plane) as d:
            added(d, server, count)
            report = d.run()
        assert (report.done, report.exit_code) == (count, 0)
        assert len(names_in(tmp_path)) == count
        for n in range(count):
            versions = [content_of(server, f"/f/{n:04}", version) for version in (1, 2)]
            assert (tmp_path / f"{n:04}").read_bytes() in versions
        if kind in {"resets", "ends"}:
            assert server.stats.faults.total() >= 3
            # What came before a cut is kept, also when the lane hands it over.
            assert server.stats.bytes_down <= 1.02 * count * size


def test_a_connection_that_the_server_closed_meanwhile_is_nobodys_failure(
    plane: str,
    tmp_path: Path,
) -> None:
    """Each answer promises to keep the connection, and then it is closed."""
    scripts = {f"/{n}": [Say(GOOD.data, "fin")] for n in range(60)}
    with ScriptServer(scripts) as server, downloads(tmp_path, plane=plane, workers=2) as d:
        d.add_many([server.url + path for path in scripts])
        report = d.run()
        assert report.done == 60
        assert [item.attempts for item in d.status().items] == [0] * 60
        assert server.connections == 60
        assert len(server.asked) <= 60


def test_missing_files_are_asked_for_once_and_the_others_come(plane: str, tmp_path: Path) -> None:
    routes = [
        hf.chaos.Object("/f/00*", 500),
        hf.chaos.Handler("/f/01*", lambda _: hf.chaos.Answer(403, {})),
    ]
    with hf.chaos.server(*routes) as server:
        with downloads(tmp_path, plane=plane) as d:
            added(d, server, 300)
            report = d.run()
        assert (report.done, report.exit_code) == (100, 1)
        reasons = {item.reason for item in report.failed}
        assert reasons == {"forbidden", "not-found"}
        assert server.stats.requests == 300


def test_a_host_that_names_a_time_is_left_alone_until_then(plane: str, tmp_path: Path) -> None:
    times: list[float] = []
    refused: list[float] = []

    def answer(_: hf.chaos.Request) -> hf.chaos.Answer | bytes:
        now = time.monotonic()
        times.append(now)
        if 20 < len(times) <= 24:
            refused.append(now)
            return hf.chaos.Answer(429, {"Retry-After": "1"})
        return b"here"

    with (
        hf.chaos.server(hf.chaos.Handler("/f/*", answer)) as server,
        downloads(tmp_path, plane=plane) as d,
    ):
        added(d, server, 200)
        report = d.run()
    assert report.done == 200
    assert len(refused) == 4
    # Nobody asks in the second after the last refusal that everybody could know of.
    assert not [at for at in times if refused[-1] + 0.3 < at < refused[-1] + 0.9]


def test_large_files_of_unknown_size_are_left_to_the_threads(plane: str, tmp_path: Path) -> None:
    with hf.chaos.server(hf.chaos.Object("/f/*", 5 << 20)) as server:
        with downloads(tmp_path, plane=plane) as d:
            added(d, server, 40)
            report = d.run()
        assert report.done == 40
        assert server.stats.requests <= 40 + 16
        # What was under way when the lane saw the size is all that came in vain.
        came = server.stats.bytes_down - server.stats.bytes_lost
        assert came <= 1.02 * 40 * (5 << 20)


@pytest.mark.parametrize("limit", [200_000, 1_000_000])
def test_the_bandwidth_limit_holds(limit: int, plane: str, tmp_path: Path) -> None:
    server = hf.chaos.server(hf.chaos.Object("/f/*", 10_000))
    with server, downloads(tmp_path, plane=plane, limit_rate=limit) as d:
        added(d, server, 60)
        before = time.monotonic()
        assert d.run().done == 60
        seconds = time.monotonic() - before
    assert seconds >= 0.8 * (600_000 / limit - 0.1)
    assert seconds <= 600_000 / limit + 1.5


# -- what is in the way ----------------------------------------------------------------------------


def test_what_lies_in_the_way_is_judged_as_ever(plane: str, tmp_path: Path) -> None:
    into = tmp_path / "d"
    into.mkdir()
    with hf.chaos.server(hf.chaos.Object("/f/*", 500)) as server:
        (into / "0001").write_bytes(b"x" * 500)  # the same size: skipped, unverified
        (into / "0002").write_bytes(b"another")
        (into / "0003").mkdir()
        (into / "0004").symlink_to(tmp_path / "elsewhere")
        (into / "s").symlink_to(tmp_path)
        with downloads(into, plane=plane) as d:
            added(d, server, 40)
            d.add(server.url("/f/0050"), path="s/0050")
            item = next(one for one in d.status().items if one.path == "0005")
            (into / item.part).write_bytes(b"left by a death")
            report = d.run()
        assert (report.done, report.skipped) == (36, 1)
        reasons = {item.path: item.reason for item in report.failed}
        assert reasons == {
            "0002": "exists",
            "0003": "unsafe-target",
            "0004": "unsafe-target",
            "s/0050": "unsafe-target",
        }
        assert (into / "0002").read_bytes() == b"another"
        assert (into / "0005").read_bytes() == content_of(server, "/f/0005")
        assert not (tmp_path / "elsewhere").exists()
        assert not [name for name in names_in(into) if name.endswith(".part")]


def test_a_file_that_comes_while_ours_is_fetched_is_not_touched(plane: str, tmp_path: Path) -> None:
    def answer(request: hf.chaos.Request) -> bytes:
        if request.path == "/f/0007":
            (tmp_path / "0007").write_bytes(b"somebody else's")
        return b"ours"

    with (
        hf.chaos.server(hf.chaos.Handler("/f/*", answer)) as server,
        downloads(tmp_path, plane=plane) as d,
    ):
        added(d, server, 40)
        report = d.run()
    assert (report.done, [item.reason for item in report.failed]) == (39, ["exists"])
    assert (tmp_path / "0007").read_bytes() == b"somebody else's"


# -- steering --------------------------------------------------------------------------------------


def stalled(count: int) -> dict[str, Sequence[Say]]:
    """Return scripts in which the first file never comes."""
    scripts: dict[str, Sequence[Say]] = {f"/{n}": [GOOD] for n in range(1, count)}
    return {"/0": [Say(cut(HEAD + 10), "stall")], **scripts}


PATIENT = Timeouts(connect=20, first_byte=20, idle=20)


@pytest.mark.parametrize("wish", ["pause", "cancel"])
def test_one_that_stalls_can_be_stopped_and_the_others_are_done(
    wish: str, plane: str, tmp_path: Path
) -> None:
    with (
        ScriptServer(stalled(50)) as server,
        downloads(tmp_path, plane=plane, timeouts=PATIENT) as d,
    ):
        ids = d.add_many([server.url + path for path in server.scripts])
        running = Running(d)
        until(lambda: len(server.asked) == 50)
        before = time.monotonic()
        assert getattr(d, wish)(ids[0]) == 1
        report = running.join()
        assert time.monotonic() - before < 2
        states = {item.id: str(item.state) for item in d.status().items}
        assert states[ids[0]] == {"pause": "paused", "cancel": "cancelled"}[wish]
        assert (report.done, report.left) == (49, 1 if wish == "pause" else 0)
        assert len([name for name in names_in(tmp_path) if not name.endswith(".part")]) == 49


def test_a_stop_is_obeyed_and_the_next_run_goes_on(plane: str, tmp_path: Path) -> None:
    with (
        ScriptServer(stalled(50)) as server,
        downloads(tmp_path, plane=plane, timeouts=PATIENT) as d,
    ):
        d.add_many([server.url + path for path in server.scripts])
        running = Running(d)
        until(lambda: len(server.asked) == 50)
        before = time.monotonic()
        d.stop()
        report = running.join()
        assert time.monotonic() - before < 2
        assert (report.left, report.exit_code) == (1, 130)
        server.scripts["/0"] = [GOOD]
        assert d.run().done == 1
        assert len(names_in(tmp_path)) == 50


def test_what_was_cancelled_before_its_turn_is_not_asked_for(tmp_path: Path) -> None:
    slow = hf.chaos.Latency(0.02)
    with hf.chaos.server(hf.chaos.Object("/f/*", 100, faults=[]), faults=[slow]) as server:
        with downloads(tmp_path, workers=1) as d:
            added(d, server, 100)
            last = d.status().items[-1]
            running = Running(d)
            until(lambda: server.stats.requests > 3)
            assert d.cancel(last.id) == 1
            report = running.join()
        assert report.done == 99
        assert "/f/0099" not in [entry.path for entry in server.log]


def test_events_are_those_of_any_file(plane: str, tmp_path: Path) -> None:
    with hf.chaos.server(hf.chaos.Object("/f/*", 100)) as server:
        heard = Heard()
        with downloads(tmp_path, plane=plane) as d:
            added(d, server, 40)
            d.watch(heard)
            d.run()
    per_file: dict[str, list[str]] = {}
    for event in heard.events:
        if type(event.event).__name__ == "FileState":
            per_file.setdefault(event.id, []).append(event.event.state)
    assert len(per_file) == 40
    assert set(map(tuple, per_file.values())) == {("active", "verifying", "finishing", "done")}
