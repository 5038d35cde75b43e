"""From a listing to files: what was listed pins what is fetched, in this process and the next."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from email.utils import formatdate
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from downloads_rig import Heard, downloads, names_in
from downloads_s3_rig import Shelf, rclone_serving, refusal

import holdfast as hf
from holdfast.downloads.globs import Globs
from holdfast.runtime.clock import clock

MIB = 1 << 20


@pytest.fixture(autouse=True)
def _no_credentials_of_this_machine(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no config"))


def signed(monkeypatch, token: str = "") -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    if token:
        monkeypatch.setenv("AWS_SESSION_TOKEN", token)


def shelf(count: int = 5, **options) -> Shelf:
    made = Shelf(**options)
    for n in range(count):
        made.put("bkt", f"p/{n:04d}.nc", f"body {n}".encode())
    return made


# -- a listing becomes files ----------------------------------------------------------------


def test_a_bucket_is_listed_and_fetched_by_its_versions(tmp_path):
    one = shelf(250, per_page=100)
    with one.server() as server, downloads(tmp_path) as d:
        heard = Heard()
        d.watch(heard)
        added = d.add_s3("s3://bkt/p/", auth="anonymous", endpoint=f"http://{server.address}")
        assert (added.count, added.failed, added.unknown_sizes) == (250, 0, 0)
        assert added.bytes == sum(len(body) for body in one.objects.values())
        assert [page.objects for page in heard.named("ListingPage")] == [100, 200, 250, 250]
        assert [page.ended for page in heard.named("ListingPage")] == [False, False, False, True]
        plan = d.plan()
        assert (plan.files, plan.bytes, plan.unknown_sizes) == (250, added.bytes, 0)
        assert len(one.lists) == 3  # the plan asks for nothing more
        assert not one.gets
        d.cancel(d.add("http://127.0.0.1/none"))
        report = d.run()
        assert {item.verified for item in d.status().items if item.state == "done"} == {"md5"}
    assert (report.done, report.exit_code) == (250, 0)
    assert {get.headers["x-amz-checksum-mode"] for get in one.gets} == {"ENABLED"}
    assert (tmp_path / "0017.nc").read_text() == "body 17"
    assert all("if-match" in get.headers and "range" not in get.headers for get in one.gets)


def test_globs_and_their_order_choose(tmp_path):
    one = shelf()
    with one.server() as server, downloads(tmp_path) as d:
        endpoint = f"http://{server.address}"
        options = {"auth": "anonymous", "endpoint": endpoint}
        assert d.add_s3("s3://bkt/p/", include="*[1-3].nc", exclude=["*2*"], **options).count == 2
        rules = Globs((("exclude", "*"), ("include", "*4.nc")))
        assert d.add_s3("s3://bkt/p/", rules=rules, **options).count == 1
        assert sorted(item.path for item in d.status().items) == ["0001.nc", "0003.nc", "0004.nc"]


def test_nothing_that_matches_is_a_failed_item_and_no_file(tmp_path):
    one = shelf()
    with one.server() as server, downloads(tmp_path) as d:
        endpoint = f"http://{server.address}"
        added = d.add_s3("s3://bkt/p/", include="*.txt", auth="anonymous", endpoint=endpoint)
        assert (added.count, added.failed) == (0, 1)
        report = d.run()
        assert report.exit_code == 1
        (failed,) = report.failed
        assert (failed.code, failed.url) == ("HF-1309", "s3://bkt/p/")
        assert names_in(tmp_path) == []
        # What was not there may come: then the same words bring it, and the failure is gone.
        one.put("bkt", "p/new.txt", b"new")
        assert d.retry_failed() == 1
        again = d.run(only_failed=True)
        assert (again.done, again.failed, d.failed()) == (0, (), ())
        assert d.run().done == 1


def test_a_bucket_that_does_not_answer_is_a_failed_item_that_can_be_tried_again(tmp_path):
    one = shelf(30, per_page=10)
    broken = []

    def answer(request):
        if len(one.lists) >= 1 and not broken and "list-type" in request.query:
            one.lists.append(request)
            return refusal(403, "AccessDenied")
        return one(request)

    with hf.chaos.server(hf.chaos.Handler("/*", answer)) as server, downloads(tmp_path) as d:
        added = d.add_s3("s3://bkt/p/", auth="anonymous", endpoint=f"http://{server.address}")
        assert (added.count, added.failed) == (10, 1)
        report = d.run()
        assert (report.done, report.exit_code) == (10, 1)
        broken.append(False)
        before = len(one.lists)
        assert d.retry_failed() == 1
        assert d.run().done == 20
        assert len(one.lists) - before == 2  # it went on at its page
        assert d.failed() == ()


def test_an_object_in_an_archive_is_in_the_failed_list(tmp_path):
    one = shelf(classes={"p/0002.nc": "DEEP_ARCHIVE"})
    with one.server() as server, downloads(tmp_path) as d:
        added = d.add_s3("s3://bkt/p/", auth="anonymous", endpoint=f"http://{server.address}")
        assert (added.count, added.failed) == (4, 1)
        report = d.run()
        assert (report.done, [item.code for item in report.failed]) == (4, ["HF-1310"])
        assert not any("0002" in get.path for get in one.gets)


def test_two_calls_for_one_bucket_are_one_set_of_files(tmp_path):
    one = shelf()
    with one.server() as server:
        for expected in (5, 0):
            with downloads(tmp_path) as d:
                d.add_s3("s3://bkt/p/", auth="anonymous", endpoint=f"http://{server.address}")
                report = d.run()
                assert (report.done, report.skipped, report.exit_code) == (
                    expected, 5 - expected, 0,
                )  # fmt: skip
        assert len(one.gets) == 5


# -- what was listed is what is fetched -------------------------------------------------------


@pytest.mark.parametrize("heeds", [True, False], ids=["If-Match heeded", "If-Match ignored"])
@pytest.mark.parametrize(
    "new", [b"body X", b"a longer body", b""], ids=["same size", "longer", "empty"]
)
def test_an_object_replaced_since_the_listing_is_taken_whole_as_it_is_now(tmp_path, heeds, new):
    one = shelf(2, heeds_if_match=heeds)
    with one.server() as server, downloads(tmp_path) as d:
        heard = Heard()
        d.watch(heard)
        d.add_s3("s3://bkt/p/", auth="anonymous", endpoint=f"http://{server.address}")
        one.put("bkt", "p/0001.nc", new)
        report = d.run()
        assert (report.done, report.exit_code) == (2, 0)
        assert (tmp_path / "0001.nc").read_bytes() == new
        assert (tmp_path / "0000.nc").read_bytes() == b"body 0"
        assert len(one.gets) == (3 if heeds else 2)
        (declined,) = heard.named("ResumeDeclined")
        reasons = {True: "412, replaced since it was listed", False: "200, other version"}
        assert declined.reason == reasons[heeds]


def test_an_object_that_is_empty_in_the_listing_is_asked_for(tmp_path):
    one = shelf(0)
    one.put("bkt", "p/empty.nc", b"")
    with one.server() as server, downloads(tmp_path) as d:
        d.add_s3("s3://bkt/p/", auth="anonymous", endpoint=f"http://{server.address}")
        assert d.run().done == 1
        assert len(one.gets) == 1
        assert (tmp_path / "empty.nc").read_bytes() == b""


def test_an_object_that_has_gone_since_the_listing_fails_after_one_request(tmp_path):
    one = shelf(1)
    with one.server() as server, downloads(tmp_path) as d:
        d.add_s3("s3://bkt/p/", auth="anonymous", endpoint=f"http://{server.address}")
        del one.objects["bkt/p/0000.nc"]
        report = d.run()
        assert [item.code for item in report.failed] == ["HF-1301"]
        assert len(one.gets) == 1


def test_a_listing_that_was_of_a_newer_version_pins_what_has_no_byte_yet(tmp_path):
    one = shelf(1)
    with one.server() as server:
        with downloads(tmp_path) as d:
            d.add_s3("s3://bkt/p/", auth="anonymous", endpoint=f"http://{server.address}")
        one.put("bkt", "p/0000.nc", b"newer")
        with downloads(tmp_path) as d:
            d.add_s3("s3://bkt/p/", auth="anonymous", endpoint=f"http://{server.address}")
            assert d.plan().bytes == 5
            assert d.run().done == 1
        assert len(one.gets) == 1  # its condition held


def test_what_an_answer_said_of_an_older_version_is_forgotten_with_it(tmp_path):
    one = shelf(1)

    def begun(request):
        answer = one(request)
        if "list-type" not in request.query:
            answer.headers["Last-Modified"] = formatdate(0, usegmt=True)
            answer.headers["Date"] = formatdate(9999, usegmt=True)
            answer.stop = 0  # the head, and not a byte
            answer.length = 6
            answer.close = True
        return answer

    policy = hf.policy(hf.Retry(1, budget=None))
    with hf.chaos.server(hf.chaos.Handler("/*", begun)) as server:
        with downloads(tmp_path, policy=policy) as d:
            d.add_s3("s3://bkt/p/", auth="anonymous", endpoint=f"http://{server.address}")
            assert len(d.run().failed) == 1
            assert d.status().items[0].standing.pinned.last_modified
            assert not d.status().items[0].standing.listed
        one.put("bkt", "p/0000.nc", b"newer")
        with downloads(tmp_path) as d:
            d.add_s3("s3://bkt/p/", auth="anonymous", endpoint=f"http://{server.address}")
            (item,) = d.status().items
            assert item.standing.listed
            assert (item.standing.pinned.size, item.standing.pinned.last_modified) == (5, "")


# -- signatures, here and in the next process --------------------------------------------------


def test_objects_are_signed_and_nothing_of_it_is_journaled(tmp_path, monkeypatch):
    signed(monkeypatch, "t0ken")
    one = shelf(keys=frozenset({"AKID"}), tokens=frozenset({"t0ken"}))
    with one.server() as server, downloads(tmp_path) as d:
        assert d.add_s3("s3://bkt/p/", endpoint=f"http://{server.address}").count == 5
        assert d.run().done == 5
    for get in one.gets:
        names = get.headers["authorization"].partition("SignedHeaders=")[2].partition(",")[0]
        own = {name for name in get.headers if name.startswith("x-amz-")}
        assert own <= set(names.split(";"))  # AWS refuses one that is there and not signed
    journal = b"".join(path.read_bytes() for path in tmp_path.glob(".holdfast.db*"))
    assert len(journal) > 10_000
    for secret in (b"s3cret", b"AKID", b"t0ken", b"Signature"):
        assert secret not in journal


def test_the_next_process_signs_again_with_what_it_finds(tmp_path, monkeypatch):
    one = shelf(keys=frozenset({"AKID"}))
    with one.server() as server:
        with monkeypatch.context() as with_credentials:
            signed(with_credentials)
            with downloads(tmp_path) as d:
                d.add_s3("s3://bkt/p/", endpoint=f"http://{server.address}")
        with downloads(tmp_path) as d:  # nobody has credentials now
            report = d.run()
            assert (report.done, report.left, report.exit_code) == (0, 5, 3)
            assert report.left_why == ("no-credentials",)
            assert {str(item.state) for item in d.status().items} == {"needs-url"}
            assert not one.gets
        signed(monkeypatch)
        with downloads(tmp_path) as d:
            report = d.run()
            assert (report.done, report.exit_code) == (5, 0)
        assert len(one.gets) == 5


def test_a_listing_that_died_is_gone_on_with_signed_or_not_at_all(tmp_path, monkeypatch):
    one = shelf(300, per_page=100, keys=frozenset({"AKID"}))
    with one.server() as server:
        with monkeypatch.context() as with_credentials, downloads(tmp_path) as d:
            signed(with_credentials)

            def stop(number):
                if number == 2:
                    d.stop()
                    time.sleep(0.3)

            one.on_list = stop
            d.add_s3("s3://bkt/p/", endpoint=f"http://{server.address}")
            assert [listing.source for listing in d.status().unlisted] == ["s3://bkt/p/"]
        one.on_list = None
        asked = len(one.lists)
        with downloads(tmp_path) as d:
            report = d.run()
            assert (report.left, len(report.failed), report.exit_code) == (100, 1, 3)
            assert report.failed[0].code == "HF-1011"
            assert (len(one.lists), len(one.gets)) == (asked, 0)
            assert d.status().unlisted == ()
        signed(monkeypatch)
        with downloads(tmp_path) as d:
            assert d.retry_failed() == 1
            assert (d.run().done, d.failed()) == (300, ())


def test_a_clock_that_the_server_calls_wrong_is_set_by_the_server_s(tmp_path, monkeypatch):
    signed(monkeypatch)
    one = shelf(3, keys=frozenset({"AKID"}))
    ahead = 3600.0

    def strict(request):
        now = formatdate(clock.wall() + ahead, usegmt=True)
        signed_at = request.headers["x-amz-date"]
        at = time.strftime("%Y%m%dT%H", time.gmtime(clock.wall() + ahead))
        if "list-type" not in request.query and not signed_at.startswith(at):
            one.gets.append(request)
            return refusal(403, "RequestTimeTooSkewed", Date=now)
        return one(request)

    served = hf.chaos.server(hf.chaos.Handler("/*", strict))
    with served as server, downloads(tmp_path, workers=1) as d:
        d.add_s3("s3://bkt/p/", endpoint=f"http://{server.address}")
        report = d.run()
    assert (report.done, report.exit_code) == (3, 0)
    assert len(one.gets) == 4  # one too many: the clock is set once


def test_a_clock_that_stays_wrong_is_no_endless_story(tmp_path, monkeypatch):
    signed(monkeypatch)
    one = shelf(1, keys=frozenset({"AKID"}))

    def never(request):
        if "list-type" in request.query:
            return one(request)
        one.gets.append(request)
        return refusal(403, "RequestTimeTooSkewed", Date=formatdate(0, usegmt=True))

    with hf.chaos.server(hf.chaos.Handler("/*", never)) as server, downloads(tmp_path) as d:
        d.add_s3("s3://bkt/p/", endpoint=f"http://{server.address}")
        report = d.run()
    assert [item.code for item in report.failed] == ["HF-1302"]
    assert len(one.gets) == 2


def test_an_expired_token_is_looked_for_once_more(tmp_path, monkeypatch):
    signed(monkeypatch, "old")
    one = shelf(4, keys=frozenset({"AKID"}), tokens=frozenset({"old"}))
    with one.server() as server, downloads(tmp_path, workers=2) as d:
        d.add_s3("s3://bkt/p/", endpoint=f"http://{server.address}")
        one.tokens = frozenset({"new"})  # it runs out, and somebody logs in anew
        monkeypatch.setenv("AWS_SESSION_TOKEN", "new")
        report = d.run()
    assert (report.done, report.exit_code) == (4, 0)
    assert len(one.gets) <= 4 + 2


def test_an_expired_token_without_another_leaves_the_files_to_be_gone_on_with(
    tmp_path, monkeypatch
):
    signed(monkeypatch, "old")
    one = shelf(2, keys=frozenset({"AKID"}), tokens=frozenset({"old"}))
    with one.server() as server:
        with downloads(tmp_path) as d:
            d.add_s3("s3://bkt/p/", endpoint=f"http://{server.address}")
            one.tokens = frozenset({"new"})
            report = d.run()
            assert (report.left, report.left_why, report.exit_code) == (2, ("no-credentials",), 3)
            assert "expired" in next(iter(d.status().items)).failure.text
        monkeypatch.setenv("AWS_SESSION_TOKEN", "new")
        with downloads(tmp_path) as d:
            assert d.run().done == 2


# -- killed in the middle of a listing -----------------------------------------------------------


def test_kill_9_in_the_middle_of_a_listing_goes_on_at_its_page(tmp_path):
    one = shelf(300, per_page=30)
    processes = []

    def die(number):
        if number == 6 and processes:
            processes.pop().send_signal(signal.SIGKILL)
            time.sleep(0.2)

    one.on_list = die
    program = Path(__file__).with_name("downloads_listing.py")
    with one.server() as server:
        words = [sys.executable, str(program), f"http://{server.address}", str(tmp_path / "d")]
        with subprocess.Popen(words) as process:
            processes.append(process)
        assert process.returncode == -signal.SIGKILL
        assert len(one.lists) == 6
        with downloads(tmp_path / "d") as d:
            assert len(d.status().items) == 150
            report = d.run()  # without a word about the bucket
            assert (report.done, report.exit_code) == (300, 0)
        assert len(one.lists) == 6 + 5
        assert [page.query.get("continuation-token") for page in one.lists[5:7]] == [
            "p/0149.nc", "p/0149.nc",
        ]  # fmt: skip
        with downloads(tmp_path / "d") as d:
            d.add_s3("s3://bkt/p/", auth="anonymous", endpoint=f"http://{server.address}")
            assert d.run().skipped == 300
    assert len(one.gets) == 300


def test_a_listing_that_is_stopped_ends_at_once_and_is_no_end(tmp_path):
    one = shelf(300, per_page=100)
    with one.server() as server:
        with downloads(tmp_path) as d:

            def stop(number):
                if number == 2:
                    d.stop()
                    time.sleep(0.5)

            one.on_list = stop
            before = time.monotonic()
            added = d.add_s3("s3://bkt/p/", auth="anonymous", endpoint=f"http://{server.address}")
            assert time.monotonic() - before < 2
            assert added.count == 100
            report = d.run()
            assert report.exit_code == 130
            assert "listing" in report.left_why
        one.on_list = None
        with downloads(tmp_path) as d:
            assert d.run().done == 300


# -- other people's servers --------------------------------------------------------------------


def bucket_of_moto(moto: str, store, name: str, objects: dict[str, bytes]) -> None:
    config = Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1})
    s3 = boto3.client(
        "s3",
        endpoint_url=moto,
        aws_access_key_id="AKID",
        aws_secret_access_key="s3cret",
        region_name="us-east-1",
        config=config,
    )
    s3.create_bucket(Bucket=name)
    for key, body in objects.items():
        store.put_object(name, key, body)
    s3.put_bucket_policy(
        Bucket=name,
        Policy=(
            '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*",'
            f'"Action":"s3:*","Resource":"arn:aws:s3:::{name}/*"}}]}}'
        ),
    )


@pytest.mark.parametrize("auth", ["auto", "anonymous"], ids=["signed", "anonymous"])
def test_more_than_a_page_of_moto_is_listed_and_fetched(
    moto, moto_store, tmp_path, monkeypatch, auth
):
    signed(monkeypatch)
    objects = {f"x/d{n % 7}/f {n:04d}+é.nc": b"%d" % n for n in range(1100)}
    bucket_of_moto(moto, moto_store, f"pages-{auth}", objects)
    with downloads(tmp_path, workers=4, durability="process") as d:
        heard = Heard()
        d.watch(heard)
        d.add_s3(f"s3://pages-{auth}/x/", include="d[05]/*", auth=auth, endpoint=moto)
        assert [page.seen for page in heard.named("ListingPage")] == [1000, 1100, 1100]
        report = d.run()
    wanted = {key: body for key, body in objects.items() if key[3] in "05"}
    assert (report.done, report.exit_code) == (len(wanted), 0)
    for key, body in wanted.items():
        assert (tmp_path / key.removeprefix("x/")).read_bytes() == body


def test_two_months_of_era5_are_planned_and_their_variables_fetched(moto, moto_store, tmp_path):
    """Only the variables asked for, and what a plan of two months says."""
    objects = {}
    for month, days in (("202101", 31), ("202102", 28)):
        for day in range(1, days + 1):
            for code, name, grid in (
                ("130", "t", "sc"), ("131", "u", "uv"), ("132", "v", "uv"), ("133", "q", "sc"),
            ):  # fmt: skip
                date = f"{month}{day:02d}"
                file = f"e5.oper.an.pl.128_{code}_{name}.ll025{grid}.{date}00_{date}23.nc"
                objects[f"e5.oper.an.pl/{month}/{file}"] = file.encode() * 2
        objects[
            f"e5.oper.an.pl/{month}/e5.oper.an.pl.128_130_t.ll025uv.{month}0100_{month}0123.nc"
        ] = b"-"
    bucket_of_moto(moto, moto_store, "nsf-ncar-era5", objects)
    options = {"endpoint": moto, "vars": "t,u"}
    with downloads(tmp_path / "plan") as d:
        d.add_catalog("era5", date="202101..202102", **options)
        plan = d.plan()
        wanted = [key for key in objects if "_t.ll025sc" in key or "_u.ll025uv" in key]
        assert (plan.files, plan.unknown_sizes) == (2 * (31 + 28), 0) == (len(wanted), 0)
        assert plan.bytes == plan.needed == sum(len(objects[key]) for key in wanted)
        assert names_in(tmp_path / "plan") == []
    with downloads(tmp_path / "get") as d:
        assert d.add_catalog("era5", date="202102", **options).count == 56
        assert d.run().done == 56
    names = [path.name for path in (tmp_path / "get" / "202102").iterdir()]
    assert len(names) == 56
    assert all("_t.ll025sc" in name or "_u.ll025uv" in name for name in names)


def test_an_empty_month_of_era5_is_a_failed_item(moto, moto_store, tmp_path):
    with downloads(tmp_path) as d:
        bucket_of_moto(moto, moto_store, "nsf-ncar-era5", {})
        added = d.add_catalog("era5", date="199901", vars="t", endpoint=moto)
        assert (added.count, added.failed) == (0, 1)
        report = d.run()
    assert report.exit_code == 1
    assert "the month is empty" in report.failed[0].text


def test_what_a_catalog_cannot_have_is_refused_and_not_journaled(tmp_path):
    with downloads(tmp_path) as d:
        with pytest.raises(hf.downloads.DownloadError, match="did you mean `t`"):
            d.add_catalog("era5", date="202101", vars="temperature")
        assert d.status().items == ()
        assert d.run().exit_code == 0


@pytest.fixture(scope="module")
def rclone(tmp_path_factory):
    with rclone_serving(tmp_path_factory.mktemp("rclone"), 1100) as url:
        yield url


def test_a_directory_of_rclone_is_fetched_signed(rclone, tmp_path, monkeypatch):
    signed(monkeypatch)
    with downloads(tmp_path, workers=4, durability="process") as d:
        assert d.add_s3("s3://bkt/", exclude="d[12]/*", endpoint=rclone).count == 367
        report = d.run()
    assert (report.done, report.exit_code) == (367, 0)
    for n in range(0, 1100, 3):
        assert (tmp_path / f"d{n % 3}" / f"f {n:04d}+é.nc").read_bytes() == b"%d" % n
