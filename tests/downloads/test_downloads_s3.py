"""Listing buckets: of moto and rclone, and of a server that does everything wrong."""

from __future__ import annotations

import itertools
import pickle
import threading
from datetime import UTC, datetime
from email.utils import formatdate
from urllib.parse import quote, unquote, urlsplit

import boto3
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.credentials import Credentials
from downloads_rig import QUICK, quick_policy
from downloads_s3_rig import rclone_serving
from hypothesis import given, settings
from hypothesis import strategies as st

import holdfast as hf
from holdfast.chaos.line import Plain
from holdfast.chaos.message import Answer
from holdfast.downloads.globs import globs
from holdfast.downloads.s3 import Bucket, ListFailed
from holdfast.downloads.s3_address import Place, Source, parse_source
from holdfast.downloads.s3_answers import Answer as PageAnswer
from holdfast.downloads.s3_auth import Found, Signer
from holdfast.runtime.clock import clock
from holdfast.transfer.failures import Interrupted, TransferFailed
from holdfast.transfer.plane import End, Received, Request, Take
from holdfast.transfer.plane_threads import ThreadPlane
from holdfast.wire.cancel import Cancel
from holdfast.wire.http1 import Head
from holdfast.wire.urls import parse

SIGNED = Found(Signer(Credentials("AKID", "s3cret")))
ANONYMOUS = Found(note="it was asked anonymously")


def bucket(source: str, endpoint: str | None = None, **options) -> Bucket:
    options.setdefault("found", ANONYMOUS)
    options.setdefault("policy", quick_policy(3))
    options.setdefault("timeouts", QUICK)
    return Bucket(parse_source(source), endpoint=endpoint, **options)


def keys(one: Bucket) -> list[str]:
    return [found.key for page in one.pages() for found in page.objects]


def fails(one: Bucket) -> ListFailed:
    with pytest.raises(ListFailed) as caught:
        keys(one)
    return caught.value


# -- addresses -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected", "base"),
    [
        ("s3://bucket", Source("bucket"), ""),
        ("s3://bucket/", Source("bucket"), ""),
        ("S3://bucket/a/b", Source("bucket", "a/b"), "a/"),
        ("s3://bucket/a%20b +é/", Source("bucket", "a%20b +é/"), "a%20b +é/"),
        ("s3://my.old_Bucket//x", Source("my.old_Bucket", "/x"), "/"),
    ],
)
def test_a_source_is_read_as_it_is(text: str, expected: Source, base: str) -> None:
    assert parse_source(text) == expected
    assert expected.base == base


@pytest.mark.parametrize(
    "text", ["https://b/p", "s3://", "s3:///p", "s3://b@c/p", "s3://b:1/p", f"s3://bb/{'é' * 513}"]
)
def test_what_is_no_source_is_refused(text: str) -> None:
    with pytest.raises(hf.downloads.DownloadError) as caught:
        parse_source(text)
    assert (caught.value.code, caught.value.exit_code) == ("HF-1001", 2)
    assert "s3://bucket/prefix" in caught.value.next_step


@pytest.mark.parametrize("text", ["http://u:hunter2@h/", "https://h/?token=hunter2"])
def test_an_endpoint_holds_no_secrets(text: str) -> None:
    with pytest.raises(hf.downloads.DownloadError) as caught:
        bucket("s3://bkt", text)
    assert caught.value.code == "HF-1003"
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("place", "url"),
    [
        (Place("bkt"), "https://bkt.s3.amazonaws.com/k"),
        (Place("bkt", region="us-west-2"), "https://bkt.s3.us-west-2.amazonaws.com/k"),
        (Place("bkt", region="cn-north-1"), "https://bkt.s3.cn-north-1.amazonaws.com.cn/k"),
        (Place("a.b", region="us-west-2"), "https://s3.us-west-2.amazonaws.com/a.b/k"),
        (Place("My_b"), "https://s3.amazonaws.com/My_b/k"),
        (Place("bkt", parse("http://h:9000/")), "http://h:9000/bkt/k"),
        (Place("bkt", parse("https://h/s3/"), "eu-west-1"), "https://h/s3/bkt/k"),
    ],
)
def test_the_address_of_an_object(place: Place, url: str) -> None:
    assert place.url("k") == url


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=40))
def test_the_address_of_any_key_leads_back_to_it(key: str) -> None:
    text = Place("bkt").url(key)
    assert unquote(urlsplit(text).path, errors="strict") == f"/{key}"
    url = parse(text)  # and nothing is changed on the way to the wire
    assert url.full() == text
    assert not url.query


# -- other people's servers ----------------------------------------------------------------


WEIRD = [
    "plain.nc",
    "a b.nc",
    "a+b.nc",
    "100%.nc",
    "a%20b.nc",
    "é/ü 漢字.nc",
    "q?x=1&y#z.nc",
    "d//double.nc",
    "/leading.nc",
    "(paren)!*'~.nc",
    "tab\there.nc",
]


def client(endpoint: str):
    config = Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1})
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id="AKID",
        aws_secret_access_key="s3cret",
        region_name="us-east-1",
        config=config,
    )


@pytest.fixture(scope="module")
def filled(moto, moto_store):
    """A bucket of three pages, and one of odd keys."""
    s3 = client(moto)
    s3.create_bucket(Bucket="many")
    for n in range(2100):
        moto_store.put_object("many", f"p/{n:05d}.nc", b"x")
    s3.create_bucket(Bucket="odd")
    for n, key in enumerate(WEIRD):
        s3.put_object(Bucket="odd", Key=key, Body=f"body {n}".encode(), ACL="public-read")
    s3.put_object(Bucket="odd", Key="folder/", Body=b"")
    s3.put_object(Bucket="odd", Key="cold.nc", Body=b"x", StorageClass="DEEP_ARCHIVE")
    return moto


def test_all_pages_of_moto_are_listed_once(filled) -> None:
    one = bucket("s3://many/p/", filled)
    pages = list(one.pages())
    assert [len(page.objects) for page in pages] == [1000, 1000, 100]
    assert [o.key for page in pages for o in page.objects] == [f"p/{n:05d}.nc" for n in range(2100)]
    first = pages[0].objects[0]
    assert (first.size, first.etag) == (1, '"9dd4e461268c8034f5c8564e155c67a6"')


def test_a_token_that_was_kept_goes_on_where_it_stopped(filled) -> None:
    first = next(bucket("s3://many/p/", filled).pages())
    rest = bucket("s3://many/p/", filled).pages(first.next_token)
    assert [len(page.objects) for page in rest] == [1000, 100]


def fetched(url: str, headers: dict[str, str]) -> bytes:
    """Return the body of a GET by our own data plane."""

    class Sink:
        body = b""

        def accept(self, head):
            assert head.status == 200, head
            return Take()

        def write(self, data):
            self.body += bytes(data)

        def lull(self):
            pass

    sink = Sink()
    ThreadPlane().fetch(Request(parse(url), headers, QUICK), sink, Cancel())
    return sink.body


@pytest.mark.parametrize("found", [ANONYMOUS, SIGNED], ids=["anonymous", "signed"])
def test_odd_keys_are_listed_and_fetched(filled, found) -> None:
    one = bucket("s3://odd", filled, found=found)
    chosen = {c.key: c for page in one.pages() for c in one.chosen(page, globs())}
    assert set(chosen) == {*WEIRD, "cold.nc"}
    for n, key in enumerate(WEIRD):
        url = chosen[key].url
        assert fetched(url, one.headers_for(url)) == f"body {n}".encode()


def test_what_was_listed_is_downloaded_to_its_path(filled, tmp_path) -> None:
    one = bucket("s3://odd", filled)
    with hf.Downloads(tmp_path, policy=quick_policy(), timeouts=QUICK) as run:
        for page in one.pages():
            for c in one.chosen(page, globs("**/*.nc", "cold*")):
                run.add(c.url, path=c.path, size=c.size)
        report = run.run()
    assert (report.done, report.failed) == (len(WEIRD), ())
    for n, name in enumerate(WEIRD):
        path = name.strip("/").replace("//", "/").replace("\t", "_")
        assert (tmp_path / path).read_text() == f"body {n}"


def test_an_object_in_an_archive_is_a_failure_with_its_reason(filled) -> None:
    one = bucket("s3://odd/cold", filled)
    (chosen,) = [c for page in one.pages() for c in one.chosen(page, globs())]
    assert chosen.failure is not None
    assert chosen.failure.code == "HF-1310"
    assert "DEEP_ARCHIVE" in chosen.failure.text


def test_a_source_that_is_a_key_is_that_object_alone(filled) -> None:
    s3 = client(filled)
    s3.create_bucket(Bucket="exact")
    for key in ("d/a", "d/a.md5", "d/ab", "e/x1", "e/x2"):
        s3.put_object(Bucket="exact", Key=key, Body=b"x")
    assert keys(bucket("s3://exact/d/a", filled)) == ["d/a"]
    assert keys(bucket("s3://exact/d/a.", filled)) == ["d/a.md5"]
    assert keys(bucket("s3://exact/e/x", filled)) == ["e/x1", "e/x2"]
    assert keys(bucket("s3://exact/d/", filled)) == ["d/a", "d/a.md5", "d/ab"]


def test_globs_are_about_the_path_below_the_source(filled) -> None:
    one = bucket("s3://many/p/", filled)
    page = next(one.pages())
    assert [c.path for c in one.chosen(page, globs("0001?.nc", "*5.nc"))] == [
        f"0001{n}.nc" for n in range(10) if n != 5
    ]


def test_nothing_that_begins_so_names_what_is_near(filled) -> None:
    s3 = client(filled)
    s3.create_bucket(Bucket="near")
    for month in ("202101", "202102", "199912"):
        s3.put_object(Bucket="near", Key=f"e5/{month}/a.nc", Body=b"x")
    one = bucket("s3://near/e5/202103/", filled)
    assert keys(one) == []
    failure = one.no_match(globs(), 0).failure
    assert failure.code == "HF-1309"
    assert "`e5/202101/`" in failure.text
    assert bucket("s3://near/no/such/way", filled).nearest_prefixes() == ["e5/"]
    s3.create_bucket(Bucket="void")
    assert "the bucket is empty" in str(bucket("s3://void", filled).no_match(globs(), 0))


def test_what_is_near_is_left_out_where_it_cannot_be_listed() -> None:
    with serving(lambda _: answer(403, error_xml("AccessDenied"))) as server:
        failure = bucket("s3://bkt/a/b", f"http://{server.address}").no_match(globs(), 0).failure
    assert failure.text == "`s3://bkt/a/b`: no key begins so"


def test_globs_that_take_nothing_are_told_with_an_example(filled) -> None:
    failure = bucket("s3://many/p/", filled).no_match(globs("*.txt"), 2100, "00000.nc").failure
    assert "2100 objects" in failure.text
    assert "--include *.txt" in failure.text
    assert "`00000.nc`" in failure.text


def test_a_bucket_that_does_not_exist_is_told(filled) -> None:
    error = fails(bucket("s3://no-such-bucket-here/x", filled))
    assert (error.code, error.exit_code) == ("HF-1308", 1)
    assert "there is no such bucket" in str(error)
    assert pickle.loads(pickle.dumps(error)).failure == error.failure


@pytest.fixture(scope="module")
def rclone(tmp_path_factory):
    with rclone_serving(tmp_path_factory.mktemp("rclone"), 1200) as url:
        yield url


def test_a_directory_of_rclone_is_listed_and_fetched_signed(rclone) -> None:
    one = bucket("s3://bkt/", rclone, found=SIGNED)
    chosen = {c.key: c for page in one.pages() for c in one.chosen(page, globs())}
    assert set(chosen) == {f"d{n % 3}/f {n:04d}+é.nc" for n in range(1200)}
    url = chosen["d1/f 0004+é.nc"].url
    assert fetched(url, one.headers_for(url)) == b"4"


def test_rclone_refuses_who_does_not_sign_and_the_text_says_what_to_do(rclone) -> None:
    error = fails(bucket("s3://bkt/", rclone))
    assert error.code == "HF-1302"
    assert "--s3-auth chain" in str(error)
    assert "it was asked anonymously" in str(error)


def test_rclone_refuses_a_wrong_secret_and_the_text_says_so(rclone) -> None:
    wrong = Found(Signer(Credentials("AKID", "wrong")))
    assert "check the secret key" in str(fails(bucket("s3://bkt/", rclone, found=wrong)))


# -- a server that does everything wrong ---------------------------------------------------


def listing(names: list[str], token: str | None = None) -> str:
    objects = "".join(
        f"<Contents><Key>{quote(n)}</Key><Size>1</Size><ETag>x</ETag></Contents>" for n in names
    )
    more = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    return (
        f"<ListBucketResult><EncodingType>url</EncodingType>{objects}"
        f"<IsTruncated>{'true' if token else 'false'}</IsTruncated>{more}</ListBucketResult>"
    )


def error_xml(code: str, extra: str = "") -> str:
    return f"<Error><Code>{code}</Code><Message>no</Message>{extra}</Error>"


def answer(status: int, text: str, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, {"Content-Type": "application/xml", **named}, Plain(text.encode()))


def serving(function, *, faults=()):
    return hf.chaos.server(hf.chaos.Handler("/*", function), faults=faults, seed=1)


@pytest.mark.parametrize("framing", ["close", "length", "chunked"])
def test_a_page_that_is_cut_on_the_wire_is_never_an_end(framing) -> None:
    whole = listing(["a", "b"]).encode()
    cut = [0]

    def cutting(_):
        # Of a length or of chunks too: then it is the XML alone that tells.
        return Answer(
            200, {"Content-Type": "application/xml"}, Plain(whole[: cut[0]]), framing=framing
        )

    with serving(cutting) as server:
        for end in range(0, len(whole), 1 if framing == "close" else 17):
            cut[0] = end
            error = fails(bucket("s3://bkt", f"http://{server.address}", policy=quick_policy(1)))
            assert error.code == "HF-1311", end
        cut[0] = len(whole)
        assert keys(bucket("s3://bkt", f"http://{server.address}")) == ["a", "b"]


def test_a_page_that_is_cut_is_asked_for_again() -> None:
    whole = listing(["a"]).encode()
    seen = []

    def once_cut(request):
        seen.append(request.number)
        end = len(whole) if len(seen) > 1 else 50
        return Answer(200, {}, Plain(whole[:end]), framing="close")

    with serving(once_cut) as server:
        assert keys(bucket("s3://bkt", f"http://{server.address}")) == ["a"]
    assert len(seen) == 2


def test_throttling_bursts_and_resets_are_outlasted() -> None:
    slow = error_xml("SlowDown")
    faults = [
        hf.chaos.Status(503, share=0.2, burst=2, body=slow, content_type="application/xml"),
        hf.chaos.Reset(mean_bytes=10_000),
    ]

    def pages(request):
        n = int(request.query.get("continuation-token", "0"))
        names = [f"{n:02d}/{i:03d}" for i in range(20)]
        return listing(names, str(n + 1) if n < 19 else None)

    with serving(pages, faults=faults) as server:
        one = bucket("s3://bkt", f"http://{server.address}", policy=quick_policy(20))
        assert keys(one) == [f"{n:02d}/{i:03d}" for n in range(20) for i in range(20)]
        assert server.stats.requests > 20


@pytest.mark.parametrize(
    ("tokens", "pages"),
    [(["a", "a"], 1), (["a", "b", "a"], 3), (["a", "b", "c", "d", "e", "c"], 9)],
)
def test_a_listing_that_goes_round_in_a_circle_is_an_error(tokens, pages) -> None:
    follows = dict(zip(["", *tokens], tokens, strict=False))

    keys_of = itertools.count()

    def circle(request):
        token = request.query.get("continuation-token", "")
        return listing([f"{next(keys_of)}"], follows[token])

    with serving(circle) as server:
        got = []
        with pytest.raises(ListFailed, match="circle") as caught:
            got += bucket("s3://bkt", f"http://{server.address}").pages()
        assert caught.value.code == "HF-1311"
        assert server.stats.requests <= pages + 1


@pytest.mark.parametrize("length", [1, 2, 5])
def test_pages_that_come_again_under_new_tokens_are_a_circle(length) -> None:
    numbers = itertools.count()

    def forgetful(_):
        n = next(numbers)
        return listing([f"{n % length}"], f"token {n}")

    with serving(forgetful) as server:
        one = bucket("s3://bkt", f"http://{server.address}")
        assert "circle" in str(fails(one))
        assert server.stats.requests <= 3 * length + 1


def test_pages_without_objects_are_passed_through_but_not_for_ever(monkeypatch) -> None:
    def empty(request):
        n = int(request.query.get("continuation-token", "0"))
        return listing(["a"] if n == 30 else [], str(n + 1) if n != 30 else None)

    with serving(empty) as server:
        assert keys(bucket("s3://bkt", f"http://{server.address}")) == ["a"]
        monkeypatch.setattr("holdfast.downloads.s3.MAX_EMPTY_PAGES", 20)
        assert "does not end" in str(fails(bucket("s3://bkt", f"http://{server.address}")))


@pytest.mark.parametrize(
    ("text", "requests"),
    [
        ("<!DOCTYPE x [<!ENTITY a 'b'>]>" + listing(["a"]), 2),
        (error_xml("InternalError"), 2),
        ("<ListBucketResult>" + " " * (17 << 20), 2),
        (listing(["a"]).replace("false", "true"), 2),
    ],
    ids=["dtd", "error in a 200", "17 MiB", "no token"],
)
def test_what_is_no_page_fails_after_one_repeat(text, requests) -> None:
    with serving(lambda _: answer(200, text)) as server:
        error = fails(bucket("s3://bkt", f"http://{server.address}", policy=quick_policy(8)))
        assert error.code == "HF-1311"
        assert server.stats.requests == requests


def test_a_page_of_html_is_a_portal() -> None:
    def portal(_):
        return Answer(200, {"Content-Type": "text/html"}, Plain(b"<html>log in</html>"))

    with serving(portal) as server:
        assert fails(bucket("s3://bkt", f"http://{server.address}")).code == "HF-1307"


@pytest.mark.parametrize(
    ("status", "code", "expected", "requests"),
    [
        (403, "AccessDenied", "HF-1302", 1),
        (403, "ExpiredToken", "HF-1302", 1),
        (404, "NoSuchBucket", "HF-1308", 1),
        (400, "InvalidArgument", "HF-1304", 1),
        (301, "PermanentRedirect", "HF-1304", 1),
        (503, "SlowDown", "HF-1306", 3),
        (400, "RequestTimeout", "HF-1304", 3),
        (500, "InternalError", "HF-1305", 3),
        (503, "", "HF-1305", 3),
    ],
)
def test_answers_are_judged_by_status_and_code(status, code, expected, requests) -> None:
    with serving(lambda _: answer(status, error_xml(code) if code else "busy")) as server:
        error = fails(bucket("s3://bkt", f"http://{server.address}"))
        assert error.code == expected
        assert server.stats.requests == requests
        assert code in str(error)


def test_another_region_is_followed_once_and_remembered() -> None:
    asked = []

    def moved(request):
        scope = request.headers["authorization"].split("/")[2]
        asked.append(scope)
        if scope != "eu-west-1":
            region = "<Region>eu-west-1</Region>"
            return answer(400, error_xml("AuthorizationHeaderMalformed", region))
        if request.query.get("continuation-token"):
            return listing(["b"])
        return listing(["a"], "t")

    with serving(moved) as server:
        one = bucket("s3://bkt", f"http://{server.address}", found=SIGNED)
        assert keys(one) == ["a", "b"]
    assert asked == ["us-east-1", "eu-west-1", "eu-west-1"]
    assert one.place.region == "eu-west-1"
    assert "/eu-west-1/" in one.headers_for(one.object_url("a"))["Authorization"]


def test_a_server_that_always_names_another_region_is_followed_once() -> None:
    regions = iter(["eu-west-1", "eu-west-2", "eu-west-3"])

    def moving(_):
        return answer(301, error_xml("PermanentRedirect"), x_amz_bucket_region=next(regions))

    with serving(moving) as server:
        fails(bucket("s3://bkt", f"http://{server.address}", found=SIGNED))
        assert server.stats.requests == 2


def test_a_region_that_is_no_name_is_not_followed() -> None:
    def hostile(_):
        return answer(301, error_xml("PermanentRedirect"), x_amz_bucket_region="evil.example/x")

    with serving(hostile) as server:
        one = bucket("s3://bkt", f"http://{server.address}", found=SIGNED)
        fails(one)
        assert server.stats.requests == 1
        assert one.place.region == ""


class Recorded:
    """A data plane without a network: answers what it is told, and remembers who was asked."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    def fetch(self, request, sink, cancel):
        self.asked.append(request.url.full().partition("?")[0])
        status, headers, text = self.answers.pop(0)
        head = Head(status, headers)
        take = sink.accept(head)
        if take is not None:
            sink.write(memoryview(text.encode()[: take.limit]))
        return Received(End.COMPLETE, head)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("bkt", "https://bkt.s3.amazonaws.com/", "https://bkt.s3.us-west-2.amazonaws.com/"),
        ("a.b", "https://s3.amazonaws.com/a.b/", "https://s3.us-west-2.amazonaws.com/a.b/"),
    ],
)
@pytest.mark.parametrize("status", [301, 307, 400])
def test_an_anonymous_bucket_is_found_in_its_region(name, before, after, status) -> None:
    moved = (status, {"x-amz-bucket-region": "us-west-2"}, error_xml("PermanentRedirect"))
    plane = Recorded(moved, (200, {}, listing(["k"])), (200, {}, listing(["k"])))
    one = bucket(f"s3://{name}/p", plane=plane)
    assert keys(one) == ["k"]
    assert plane.asked == [before, after]
    assert one.object_url("k") == f"{after}k"
    known = bucket(f"s3://{name}/p", plane=plane, region="us-west-2")
    assert keys(known) == ["k"]
    assert plane.asked == [before, after, after]


def test_a_wrong_clock_is_put_right_once_by_the_servers_date() -> None:
    late = clock.wall() + 7200
    dates = []

    def strict(request):
        dates.append(request.headers["x-amz-date"])
        if len(dates) == 1:
            date = formatdate(late, usegmt=True)
            return answer(403, error_xml("RequestTimeTooSkewed"), Date=date)
        return listing(["a"])

    with serving(strict) as server:
        one = bucket("s3://bkt", f"http://{server.address}", found=SIGNED)
        assert keys(one) == ["a"]
    hours = [date[:11] for date in dates]
    assert hours[1] == formatted(late)[:11]
    assert hours[0] != hours[1]
    url = one.object_url("a")
    assert abs(int(one.headers_for(url)["X-Amz-Date"][9:13]) - int(formatted(late)[9:13])) <= 1


def formatted(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).strftime("%Y%m%dT%H%M%SZ")


def test_a_clock_that_stays_wrong_is_told() -> None:
    def never_content(_):
        date = formatdate(clock.wall() + 7200, usegmt=True)
        return answer(403, error_xml("RequestTimeTooSkewed"), Date=date)

    with serving(never_content) as server:
        error = fails(bucket("s3://bkt", f"http://{server.address}", found=SIGNED))
        assert "clock" in str(error)
        assert server.stats.requests == 2


def test_a_server_without_a_date_sets_no_clock() -> None:
    assert not bucket("s3://bkt", found=SIGNED).set_clock({})
    assert not bucket("s3://bkt", found=SIGNED).set_clock({"date": "soon"})
    assert not bucket("s3://bkt").set_clock({"date": formatdate(0, usegmt=True)})


def test_who_is_told_to_come_back_in_an_hour_is_not_made_to_wait() -> None:
    with serving(lambda _: answer(503, error_xml("SlowDown"), Retry_After="3600")) as server:
        assert fails(bucket("s3://bkt", f"http://{server.address}")).code == "HF-1306"
        assert server.stats.requests == 1


@pytest.mark.parametrize("step", ["write", "lull"])
def test_a_page_that_drips_is_given_up(holdfast_clock, step) -> None:
    one = PageAnswer()
    one.accept(Head(200))
    holdfast_clock.advance(119)
    one.write(memoryview(b"<ListBucketResult>"))
    holdfast_clock.advance(2)
    with pytest.raises(TransferFailed, match="did not come within 120 s"):
        one.write(memoryview(b" ")) if step == "write" else one.lull()


def test_the_requester_pays_where_that_was_agreed() -> None:
    seen = []

    def paid(request):
        seen.append((request.headers.get("x-amz-request-payer"), request.headers["authorization"]))
        return listing(["a"])

    with serving(paid) as server:
        endpoint = f"http://{server.address}"
        keys(bucket("s3://bkt", endpoint, found=SIGNED, requester_pays=True))
    assert seen[0][0] == "requester"
    assert "x-amz-request-payer" in seen[0][1]


def test_a_token_that_is_not_known_any_more_begins_anew() -> None:
    def forgetful(request):
        token = request.query.get("continuation-token")
        if token == "old":
            return answer(400, error_xml("InvalidArgument"))
        return listing(["b"]) if token else listing(["a"], "new")

    with serving(forgetful) as server:
        one = bucket("s3://bkt", f"http://{server.address}")
        assert [o.key for p in one.pages("old") for o in p.objects] == ["a", "b"]


def test_a_listing_ends_at_once_when_cancelled() -> None:
    cancel = Cancel()
    with serving(lambda _: answer(503, error_xml("SlowDown"))) as server:
        slow = hf.policy(hf.Retry(5, backoff=hf.Constant(30), budget=None), name="slow")
        one = bucket("s3://bkt", f"http://{server.address}", policy=slow, cancel=cancel)
        timer = threading.Timer(0.2, cancel.set)
        timer.start()
        started = clock.monotonic()
        with pytest.raises(Interrupted):
            keys(one)
        timer.join()
        assert clock.monotonic() - started < 5


def test_boto_and_we_list_the_same(filled) -> None:
    config = Config(signature_version=UNSIGNED, s3={"addressing_style": "path"})
    s3 = boto3.client("s3", endpoint_url=filled, region_name="us-east-1", config=config)
    theirs = s3.list_objects_v2(Bucket="odd")["Contents"]
    (page,) = bucket("s3://odd", filled).pages()
    assert [(o.key, o.size, o.etag) for o in page.objects] == [
        (one["Key"], one["Size"], one["ETag"]) for one in theirs
    ]
