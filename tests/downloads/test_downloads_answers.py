"""Every kind of answer to a range, on real sockets, on one stream and on several.

Whatever the server says, the file is right or it is not there.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest
from downloads_liar import DATE, Ask, Liar, Reply, honest
from downloads_rig import Heard, downloads, names_in, quick_policy

import holdfast as hf
from holdfast.chaos.line import Plain
from holdfast.runtime.random import SeededRandom

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MIB = 1 << 20
SIZE = 17 * MIB  # from 16 on a file is shared
BODY = SeededRandom("v1").bytes(SIZE)
OTHER = SeededRandom("v2").bytes(SIZE)
CUT = 5 * MIB
SHA256 = hashlib.sha256(BODY).hexdigest()


def with_range(reply: Reply, text: str) -> Reply:
    return Reply(reply.status, reply.body, {**reply.fields, "Content-Range": text})


def shifted(ask: Ask) -> Reply:
    start, end = max(0, ask.start - 1), ask.end - 1
    return Reply(
        "206 Partial Content", BODY[start:end], {"Content-Range": f"bytes {start}-{end - 1}/{SIZE}"}
    )


def multipart(ask: Ask) -> Reply:
    part = b"--B\r\nContent-Range: bytes 0-9/99\r\n\r\n" + BODY[ask.start : ask.end] + b"\r\n--B--"
    kind = {"Content-Type": "multipart/byteranges; boundary=B"}
    return Reply("206 Partial Content", part, kind)


def short_of_what_it_says(ask: Ask) -> Reply:
    reply = honest(BODY, ask)
    reply.sent = (len(reply.body) + 1) // 2
    return reply


def chunked_and_cut(ask: Ask) -> Reply:
    reply = honest(BODY, ask)
    reply.sent, reply.chunked, reply.ended = (len(reply.body) + 1) // 2, True, False
    return reply


def longer_than_asked(ask: Ask) -> Reply:
    reply = honest(BODY, ask)
    reply.body += b"surplus" * 1000
    reply.framed = False
    return reply


ROWS: dict[str, tuple[Callable[[Ask], Reply], str]] = {
    # name: what a range is answered with, and what must come of it if that goes on for ever
    "206 as asked": (lambda ask: honest(BODY, ask), "done"),
    "206 in chunks": (
        lambda ask: Reply("206 Partial Content", BODY[ask.start : ask.end],
                          honest(BODY, ask).fields, chunked=True), "done"),
    "206 of another range": (shifted, "done"),
    "206 without content-range": (
        lambda ask: Reply("206 Partial Content", BODY[ask.start : ask.end]), "done"),
    "206 multipart": (multipart, "done"),
    "206 of another total": (
        lambda ask: with_range(honest(BODY, ask), f"bytes {ask.start}-{ask.end - 1}/{SIZE + 1}"),
        "changing"),
    "206 of another etag": (
        lambda ask: Reply("206 Partial Content", OTHER[ask.start : ask.end],
                          {**honest(BODY, ask).fields, "ETag": '"v2"'}), "changing"),
    "206 without a validator": (
        lambda ask: Reply("206 Partial Content", BODY[ask.start : ask.end],
                          {**honest(BODY, ask).fields, "ETag": "", "Last-Modified": ""}), "done"),
    "206 that ends early": (short_of_what_it_says, "done"),
    "206 in chunks that end early": (chunked_and_cut, "done"),
    "206 longer than asked": (longer_than_asked, "done"),
    "200 with the range asked": (
        lambda ask: Reply("200 OK", BODY[ask.start : ask.end], honest(BODY, ask).fields), "done"),
    "200 with another range": (
        lambda ask: Reply("200 OK", BODY[ask.start : ask.end],
                          {"Content-Range": f"bytes {ask.start + 1}-{ask.end}/{SIZE + 1}"}),
        "done or changing"),
    "200 whole": (lambda _: Reply("200 OK", BODY), "done"),
    "416 with this size": (
        lambda _: Reply("416 Range Not Satisfiable", b"", {"Content-Range": f"bytes */{SIZE}"}),
        "done or changing"),
    "416 with another size": (
        lambda _: Reply("416 Range Not Satisfiable", b"", {"Content-Range": "bytes */7"}),
        "done or changing"),
    "416 without a size": (lambda _: Reply("416 Range Not Satisfiable", b""), "done"),
    "412": (lambda _: Reply("412 Precondition Failed", b""), "done or changing"),
    "a page": (
        lambda _: Reply("200 OK", b"<html>log in</html>" * 1000,
                        {"Content-Type": "text/html", "ETag": '"p"'}), "captive"),
}  # fmt: skip


def answering(lie: Callable[[Ask], Reply], lies: int) -> Callable[[Ask], Reply]:
    """Break the first whole answer; lie to so many ranges, and be honest to all others."""
    begun = [False]

    def answer(ask: Ask) -> Reply:
        if not ask.ranged:
            reply = honest(BODY, ask)
            if not begun[0]:
                begun[0], reply.sent = True, CUT
            return reply
        return lie(ask) if ask.ranged <= lies else honest(BODY, ask)

    return answer


def fetch(into: Path, server: Liar, streams: int, **options: Any) -> tuple[Any, Heard]:
    heard = Heard()
    digest = options.pop("sha256", None)
    with downloads(into, workers=streams, policy=quick_policy(6), **options) as d:
        d.watch(heard)
        d.add(server.url + "/data.nc", sha256=digest)
        return d.run(), heard


@pytest.mark.parametrize("streams", [1, 4], ids=["one stream", "four streams"])
@pytest.mark.parametrize("row", ROWS)
def test_a_lie_to_one_range_costs_no_right_byte(row: str, streams: int, tmp_path: Path) -> None:
    lie, _ = ROWS[row]
    with Liar(SIZE, answering(lie, 1)) as server:
        report, _ = fetch(tmp_path, server, streams)
        assert any(server.ranges)  # a range was asked, so the lie was told
    assert report.done == 1, report.failed
    assert names_in(tmp_path) == ["data.nc"]
    assert (tmp_path / "data.nc").read_bytes() == BODY


@pytest.mark.parametrize("streams", [1, 4], ids=["one stream", "four streams"])
@pytest.mark.parametrize("row", ROWS)
def test_a_lie_to_every_range_never_makes_a_wrong_file(
    row: str, streams: int, tmp_path: Path
) -> None:
    lie, outcome = ROWS[row]
    with Liar(SIZE, answering(lie, 1 << 30)) as server:
        report, _ = fetch(tmp_path, server, streams)
    if report.done:
        assert (tmp_path / "data.nc").read_bytes() == BODY
        assert names_in(tmp_path) == ["data.nc"]
    else:
        (failed,) = report.failed
        assert failed.reason in outcome.split(" or ")
        assert not (tmp_path / "data.nc").exists()
    if outcome == "done" or (streams == 1 and outcome.startswith("done")):
        assert report.done == 1, report.failed


@pytest.mark.parametrize("streams", [1, 4], ids=["one stream", "four streams"])
@pytest.mark.parametrize("digest", [None, SHA256], ids=["no digest", "a digest"])
def test_another_version_at_the_resume_is_taken_whole(
    digest: str | None, streams: int, tmp_path: Path
) -> None:
    """E3: the new ETag comes at the resume, with the same size."""
    changed = [False]

    def answer(ask: Ask) -> Reply:
        if not ask.ranged and not changed[0]:
            changed[0] = True
            return Reply("200 OK", OTHER, {"ETag": '"v0"'}, sent=CUT)
        return honest(BODY, ask)

    with Liar(SIZE, answer) as server:
        report, heard = fetch(tmp_path, server, streams, sha256=digest)
        assert server.served <= SIZE + CUT + streams * MIB
    assert report.done == 1
    assert (tmp_path / "data.nc").read_bytes() == BODY
    assert heard.named("ResumeDeclined")


# -- sizes that nobody tells --------------------------------------------------------------------


def test_416_that_names_what_is_there_ends_a_file_of_unknown_size(tmp_path: Path) -> None:
    def answer(ask: Ask) -> Reply:
        if ask.ranged:
            return honest(BODY, ask)
        return Reply("200 OK", BODY, chunked=True, ended=False)  # all of it, but for its end

    with Liar(SIZE, answer) as server:
        report, _ = fetch(tmp_path, server, 1)
        assert server.ranges == ["", f"bytes={SIZE}-"]
    assert (report.done, report.unverified) == (1, 0)
    assert (tmp_path / "data.nc").read_bytes() == BODY


@pytest.mark.parametrize("known", ["nothing", "size", "digest", "wrong size", "wrong digest"])
def test_the_end_of_a_connection_is_believed_only_with_a_size_or_a_digest(
    known: str, tmp_path: Path
) -> None:
    def answer(_: Ask) -> Reply:
        return Reply("200 OK", BODY[:CUT], framed=False)

    given: dict[str, Any] = {
        "nothing": {},
        "size": {"size": CUT},
        "digest": {"sha256": hashlib.sha256(BODY[:CUT]).hexdigest()},
        "wrong size": {"size": SIZE},
        "wrong digest": {"sha256": SHA256},
    }[known]
    with Liar(SIZE, answer) as server, downloads(tmp_path, policy=quick_policy(3)) as d:
        d.add(server.url + "/data.nc", **given)
        report = d.run()
    right = {"nothing": "unverified", "size": "size-only", "digest": "sha256"}
    assert dict(report.checked) == ({right[known]: 1} if known in right else {})
    assert report.unverified == (known == "nothing")
    assert len(report.failed) == (known not in right)
    assert (tmp_path / "data.nc").exists() == (known in right)


# -- pages in place of data ---------------------------------------------------------------------


def page(_: hf.chaos.Request) -> hf.chaos.Answer:
    return hf.chaos.Answer(200, {"Content-Type": "text/html"}, Plain(b"<html>log in</html>"))


@pytest.mark.parametrize(
    ("name", "option", "done"),
    [
        ("data.nc", {}, 0),  # another site, and a name of data
        ("data.nc", {"allow_html": True}, 1),
        ("page.html", {}, 1),  # a page may be what is meant
    ],
)
def test_a_page_of_another_site_in_place_of_data_is_not_written(
    name: str, option: dict[str, bool], done: int, tmp_path: Path
) -> None:
    with hf.chaos.server(hf.chaos.Handler("/login", page)) as portal:
        there = portal.url("/login").replace("127.0.0.1", "localhost")
        with (
            hf.chaos.server(hf.chaos.Redirect(f"/{name}", there)) as server,
            downloads(tmp_path, policy=quick_policy(2), **option) as d,
        ):
            d.add(server.url(f"/{name}"))
            report = d.run()
    assert report.done == done
    assert [f.reason for f in report.failed] == ([] if done else ["captive"])
    assert names_in(tmp_path) == ([name] if done else [])


def test_a_portal_that_lets_go_costs_only_time(tmp_path: Path) -> None:
    seen: list[int] = []

    def answer(ask: Ask) -> Reply:
        seen.append(1)
        if len(seen) < 3:
            return Reply("200 OK", b"<html>", {"Content-Type": "text/html", "ETag": ""})
        return honest(BODY, ask)

    with Liar(SIZE, answer) as server, downloads(tmp_path, policy=quick_policy(4)) as d:
        d.add(server.url + "/data.nc", size=SIZE)  # the size tells the page from the file
        assert d.run().done == 1
    assert (tmp_path / "data.nc").read_bytes() == BODY


def test_dates_of_one_second_are_no_proof(tmp_path: Path) -> None:
    """Last-Modified that is as new as the answer may hide a second change: a weak validator."""
    fresh = {"ETag": "", "Date": DATE}

    def answer(ask: Ask) -> Reply:
        reply = honest(BODY, ask)
        reply.fields |= fresh
        reply.sent = CUT if not ask.ranged else None
        return reply

    with Liar(SIZE, answer) as server:
        report, heard = fetch(tmp_path, server, 1)
    assert (report.done, report.unverified) == (1, 1)
    assert (tmp_path / "data.nc").read_bytes() == BODY
    assert [event.rung for event in heard.named("ResumeAccepted")] == ["overlap"]
