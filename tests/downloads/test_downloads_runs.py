"""Runs and their journal: what is asked again, skipped, refused, or goes on."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from downloads_rig import Heard, downloads, names_in, sha256_of

import holdfast as hf
from holdfast.downloads import DownloadError
from holdfast.downloads.downloads import read_status
from holdfast.wire.urls import BadUrl

if TYPE_CHECKING:
    from collections.abc import Iterator

KIB = 1024


@pytest.fixture
def server() -> Iterator[hf.chaos.Server]:
    objects = [hf.chaos.Object(f"/{name}", 100 * KIB) for name in "abc"]
    with hf.chaos.server(*objects) as running:
        yield running


def fetch(into: Path, *urls: str, **options: object) -> hf.downloads.Report:
    with downloads(into) as d:
        for url in urls:
            d.add(url, **options)  # type: ignore[arg-type] # options of `add`
        return d.run()


# -- again and again -----------------------------------------------------------------------------


def test_what_is_done_is_not_asked_for_again(server: hf.chaos.Server, tmp_path: Path) -> None:
    urls = [server.url("/a"), server.url("/b")]
    assert fetch(tmp_path, *urls).done == 2
    report = fetch(tmp_path, *urls)
    assert (report.done, report.skipped, report.exit_code) == (0, 2, 0)
    assert server.stats.requests == 2


def test_a_file_that_was_deleted_is_fetched_again_and_only_it(
    server: hf.chaos.Server, tmp_path: Path
) -> None:
    urls = [server.url("/a"), server.url("/b")]
    fetch(tmp_path, *urls)
    (tmp_path / "a").unlink()
    report = fetch(tmp_path, *urls)
    assert (report.done, report.skipped) == (1, 1)
    assert server.stats.requests == 3
    assert sha256_of(tmp_path / "a") == server.expected_sha256("/a")


def test_a_file_that_somebody_changed_is_not_touched(
    server: hf.chaos.Server, tmp_path: Path
) -> None:
    fetch(tmp_path, server.url("/a"))
    (tmp_path / "a").write_bytes(b"mine now")
    report = fetch(tmp_path, server.url("/a"))
    assert [item.code for item in report.failed] == ["HF-1201"]
    assert (tmp_path / "a").read_bytes() == b"mine now"


def test_adding_twice_is_one_item(server: hf.chaos.Server, tmp_path: Path) -> None:
    with downloads(tmp_path) as d:
        assert d.add(server.url("/a")) == d.add(server.url("/a"))
        assert d.run().done == 1
    assert server.stats.requests == 1


def test_the_id_is_of_source_and_destination_without_signature(
    server: hf.chaos.Server, tmp_path: Path
) -> None:
    with downloads(tmp_path) as d:
        plain = d.add("https://b.example/k")
        assert len(plain) == 16
        assert d.add("https://b.example/k?X-Amz-Signature=1") == plain
        assert d.add("https://user:pw@B.example:443/k#x") == plain
        assert d.add("https://b.example/k?versionId=1", path="k2") != plain
        assert d.add("https://b.example/k", path="sub/k") != plain


def test_a_failed_item_is_tried_again_when_it_is_added_again(tmp_path: Path) -> None:
    with hf.chaos.server() as server:
        assert fetch(tmp_path, server.url("/a")).exit_code == 1
        assert fetch(tmp_path).exit_code == 0  # nothing is open: failed items wait to be asked for
        server.add(hf.chaos.Object("/a", 1000))
        assert fetch(tmp_path, server.url("/a")).done == 1


def test_a_journal_without_new_urls_goes_on(server: hf.chaos.Server, tmp_path: Path) -> None:
    with downloads(tmp_path) as d:
        d.add(server.url("/a"))
    assert fetch(tmp_path).done == 1
    assert names_in(tmp_path) == ["a"]


def test_a_fresh_signature_goes_on_with_the_same_file(tmp_path: Path) -> None:
    cut = hf.chaos.Reset(after_bytes=50 * KIB, limit=1)
    refusal = hf.chaos.Status(403, skip=1, limit=1)
    obj = hf.chaos.Object("/k", 100 * KIB, faults=[cut, refusal])
    with hf.chaos.server(obj) as server:
        report = fetch(tmp_path, server.url("/k?X-Amz-Signature=old"))
        assert (report.exit_code, report.left_why) == (3, ("needs-url",))
        # Without a fresh one it cannot go on: the signature is not stored.
        assert fetch(tmp_path).left_why == ("needs-url",)
        assert server.stats.requests == 2
        assert fetch(tmp_path, server.url("/k?X-Amz-Signature=new")).done == 1
        assert server.stats.bytes_down == 100 * KIB + len("try again later\n")
        assert sha256_of(tmp_path / "k") == server.expected_sha256("/k")


def test_secrets_are_nowhere_on_the_disk(tmp_path: Path) -> None:
    with hf.chaos.server() as server:
        url = server.url("/k?X-Amz-Signature=c4nary&token=c4nary")
        report = fetch(tmp_path, url.replace("//", "//c4nary:c4nary@"), headers={"X-Key": "c4nary"})
    assert "c4nary" not in repr(report)
    for path in tmp_path.iterdir():
        assert b"c4nary" not in path.read_bytes()


def test_credentials_of_the_url_are_sent(tmp_path: Path) -> None:
    asked: list[dict[str, str]] = []

    def private(request: hf.chaos.Request) -> bytes:
        asked.append(request.headers)
        return b"secret"

    with hf.chaos.server(hf.chaos.Handler("/k", private)) as server:
        url = server.url("/k").replace("//", "//user:pw@")
        assert fetch(tmp_path, url, headers={"X-Key": "1"}).done == 1
    assert asked[0]["authorization"] == "Basic dXNlcjpwdw=="
    assert asked[0]["x-key"] == "1"


# -- what lies there already ---------------------------------------------------------------------


def test_a_file_with_the_right_digest_is_skipped_unasked(
    server: hf.chaos.Server, tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(server.expected_bytes("/a"))
    report = fetch(tmp_path, server.url("/a"), sha256=server.expected_sha256("/a"))
    assert (report.skipped, report.exit_code) == (1, 0)
    assert server.stats.requests == 0


def test_a_file_with_another_digest_is_left_alone(server: hf.chaos.Server, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"other")
    report = fetch(tmp_path, server.url("/a"), sha256=server.expected_sha256("/a"))
    assert [item.reason for item in report.failed] == ["exists"]
    assert server.expected_sha256("/a") in report.failed[0].text
    assert (tmp_path / "a").read_bytes() == b"other"
    assert server.stats.requests == 0


@pytest.mark.parametrize(("size", "skipped", "code"), [(100 * KIB, 1, 0), (5, 0, 1)])
def test_without_a_digest_the_size_decides(
    size: int, skipped: int, code: int, server: hf.chaos.Server, tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(bytes(size))
    report = fetch(tmp_path, server.url("/a"))
    assert (report.skipped, report.exit_code) == (skipped, code)
    assert (tmp_path / "a").read_bytes() == bytes(size)
    assert names_in(tmp_path) == (["a"] if skipped else names_in(tmp_path))


def test_a_file_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    slow = hf.chaos.Slow(bytes_per_second=400 * KIB)
    obj = hf.chaos.Object("/a", 400 * KIB, faults=[slow])
    with hf.chaos.server(obj) as server:
        timer = threading.Timer(0.3, (tmp_path / "a").write_bytes, [b"mine"])
        timer.start()
        report = fetch(tmp_path, server.url("/a"))
        timer.join()
    assert [item.reason for item in report.failed] == ["exists"]
    assert (tmp_path / "a").read_bytes() == b"mine"


@pytest.mark.parametrize("kind", ["link", "directory", "fifo", "link to nothing"])
def test_what_is_no_plain_file_is_never_written_through(
    kind: str, server: hf.chaos.Server, tmp_path: Path
) -> None:
    target, other = tmp_path / "a", tmp_path / "other"
    if kind == "directory":
        target.mkdir()
    elif kind == "fifo":
        os.mkfifo(target)
    else:
        if kind == "link":
            other.write_bytes(b"precious")
        target.symlink_to(other)
    report = fetch(tmp_path, server.url("/a"), sha256=server.expected_sha256("/a"))
    assert [item.code for item in report.failed] == ["HF-1202"]
    assert not other.exists() or other.read_bytes() == b"precious"


def test_a_way_through_a_link_is_not_taken(server: hf.chaos.Server, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    into = tmp_path / "into"
    into.mkdir()
    (into / "sub").symlink_to(outside)
    report = fetch(into, server.url("/a"), path="sub/a")
    assert [item.code for item in report.failed] == ["HF-1202"]
    assert list(outside.iterdir()) == []


def test_a_part_that_is_a_link_is_not_written_through(
    server: hf.chaos.Server, tmp_path: Path
) -> None:
    with downloads(tmp_path) as d:
        item = d.add(server.url("/a"))
        (tmp_path / f".a.{item[:8]}.part").symlink_to(tmp_path / "elsewhere")
        report = d.run()
    assert [i.code for i in report.failed] == ["HF-1202"]
    assert not (tmp_path / "elsewhere").exists()


def test_a_path_leads_into_directories_that_are_made(
    server: hf.chaos.Server, tmp_path: Path
) -> None:
    assert fetch(tmp_path, server.url("/a"), path="../x/y/a.nc").done == 1
    assert sha256_of(tmp_path / "x" / "y" / "a.nc") == server.expected_sha256("/a")


def test_two_items_of_one_name_do_not_share_it(server: hf.chaos.Server, tmp_path: Path) -> None:
    with downloads(tmp_path) as d:
        d.add(server.url("/a"), path="Data.nc")
        d.add(server.url("/b"), path="data.NC")
        report = d.run()
    assert report.done == 1
    assert [item.code for item in report.failed] == ["HF-1203"]
    assert names_in(tmp_path) == ["Data.nc"]


def test_a_mistyped_url_does_not_block_the_right_one(
    server: hf.chaos.Server, tmp_path: Path
) -> None:
    with hf.chaos.server() as wrong:
        assert fetch(tmp_path, wrong.url("/a")).exit_code == 1
    assert fetch(tmp_path, server.url("/a")).done == 1


def test_a_url_that_was_never_reached_gives_its_name_up(
    server: hf.chaos.Server, tmp_path: Path
) -> None:
    with downloads(tmp_path) as d:
        d.add("http://127.0.0.1:1/a")
    report = fetch(tmp_path, server.url("/a"))
    assert (report.done, report.left, report.exit_code) == (1, 0, 0)


# -- refusals ------------------------------------------------------------------------------------


def test_bad_promises_are_refused_at_once(tmp_path: Path) -> None:
    with downloads(tmp_path) as d:
        with pytest.raises(BadUrl):
            d.add("no url")
        with pytest.raises(DownloadError, match="64 hexadecimal digits") as refused:
            d.add("http://x/", sha256="abc")
        assert (refused.value.code, refused.value.exit_code) == ("HF-1002", 2)
        with pytest.raises(DownloadError, match="must not be negative"):
            d.add("http://x/", size=-1)
        with pytest.raises(DownloadError, match="may not stand in a header"):
            d.add("http://x/", headers={"X": "a\r\nY: b"})
        assert d.status().items == ()


@pytest.mark.parametrize(
    ("option", "value"),
    [("workers", 0), ("workers", 257), ("attempts", 0), ("max_size", 0), ("durability", "maybe")],
)
def test_bad_options_are_refused_with_their_name(
    option: str, value: object, tmp_path: Path
) -> None:
    with pytest.raises(DownloadError, match=f"`{option}`") as refused:
        downloads(tmp_path, **{option: value})
    assert refused.value.code == "HF-1003"


def test_a_second_process_is_told_who_works_here(tmp_path: Path) -> None:
    with downloads(tmp_path), pytest.raises(DownloadError, match=str(os.getpid())) as refused:
        downloads(tmp_path)
    assert (refused.value.code, refused.value.exit_code) == ("HF-1005", 75)


@pytest.mark.parametrize("place", ["/proc/x", "/dev/null", "/dev/null/x"])
def test_a_place_that_cannot_be_written_is_refused(place: str) -> None:
    with pytest.raises(DownloadError) as refused:
        hf.Downloads(place)
    assert (refused.value.code, refused.value.exit_code) == ("HF-1004", 2)


def test_a_damaged_journal_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / ".holdfast.db").write_bytes(b"rubbish" * 1000)
    with pytest.raises(DownloadError) as refused:
        downloads(tmp_path)
    assert refused.value.code == "HF-1006"
    assert "mv " in refused.value.next_step


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE item SET path = '../outside'",
        "UPDATE item SET path = '/etc/passwd'",
        "UPDATE item SET id = '../../../../x'",
        "UPDATE item SET state = 'nonsense'",
        "UPDATE item SET rung = 'nonsense'",
        "UPDATE item SET digests = 'sha256=zz'",
    ],
)
def test_rows_that_make_no_sense_are_not_acted_on(
    change: str, server: hf.chaos.Server, tmp_path: Path
) -> None:
    into = tmp_path / "into"
    with downloads(into) as d:
        d.add(server.url("/a"))
    with closing(sqlite3.connect(into / ".holdfast.db")) as db:
        db.execute("PRAGMA foreign_keys = OFF")
        db.execute(change)
        db.commit()
    with downloads(into) as d, pytest.raises(DownloadError, match="makes no sense"):
        d.run()
        d.status()
    assert names_in(tmp_path) == ["into"]


def test_a_journal_elsewhere_belongs_to_one_directory(
    server: hf.chaos.Server, tmp_path: Path
) -> None:
    journal = tmp_path / "j.db"
    with downloads(tmp_path / "one", journal=journal) as d:
        d.add(server.url("/a"))
        assert d.run().done == 1
    assert names_in(tmp_path / "one") == ["a"]
    with pytest.raises(DownloadError, match="this journal is of"):
        downloads(tmp_path / "two", journal=journal)


# -- endings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "requests"),
    [
        (404, "HF-1301", 1),
        (410, "HF-1301", 1),
        (403, "HF-1302", 1),
        (401, "HF-1303", 1),
        (400, "HF-1304", 1),
        (500, "HF-1305", 3),
        (429, "HF-1306", 3),
    ],
)
def test_each_refusal_has_its_code(status: int, code: str, requests: int, tmp_path: Path) -> None:
    faults = [hf.chaos.Status(status, retry_after=0 if status == 429 else None)]
    with hf.chaos.server(hf.chaos.Object("/x", 1), faults=faults) as server:
        with downloads(tmp_path, policy=_three()) as d:
            d.add(server.url("/x"))
            report = d.run()
        assert [item.code for item in report.failed] == [code]
        assert report.exit_code == 1
        assert server.stats.requests == requests
    assert names_in(tmp_path) == []


def _three() -> hf.Policy:
    retry = hf.Retry(3, backoff=hf.Constant(0), budget=None)
    return hf.policy(retry, name="downloads", key=lambda call: call.host)


def test_a_policy_that_refuses_leaves_the_work_for_later(tmp_path: Path) -> None:
    policy = hf.policy(hf.Retry(9, backoff=hf.Constant(0)), hf.Breaker(consecutive=2))
    with hf.chaos.server(hf.chaos.Object("/x", 9), faults=[hf.chaos.Status(500)]) as server:
        with downloads(tmp_path, policy=policy) as d:
            d.add(server.url("/x"))
            report = d.run()
        assert (report.exit_code, report.left_why) == (3, ("policy",))
        server.use()
        assert fetch(tmp_path).done == 1


def test_an_error_that_nobody_expected_ends_one_file_only(
    server: hf.chaos.Server, tmp_path: Path
) -> None:
    def hook(error: object) -> None:
        if "404" in str(error):
            raise LookupError("a hook with a defect")

    retry = hf.Retry(3, backoff=hf.Constant(0), budget=None)
    with downloads(tmp_path, policy=hf.policy(retry, classify=hook), workers=1) as d:
        d.add(server.url("/absent"))
        d.add(server.url("/a"))
        report = d.run()
    assert report.done == 1
    assert [item.code for item in report.failed] == ["HF-1599"]
    assert "LookupError: a hook with a defect" in report.failed[0].text


def test_a_run_after_a_stop_goes_on(server: hf.chaos.Server, tmp_path: Path) -> None:
    with downloads(tmp_path) as d:
        d.add(server.url("/a"))
        d.stop()
        assert (d.run().exit_code, server.stats.requests) == (130, 0)
        assert d.run().done == 1


def test_a_host_that_asks_for_hours_is_left_for_later(tmp_path: Path) -> None:
    faults = [hf.chaos.Status(503, retry_after=7200)]
    with hf.chaos.server(hf.chaos.Object("/x", 1), faults=faults) as server:
        report = fetch(tmp_path, server.url("/x"))
        assert (report.exit_code, report.left, report.left_why) == (75, 1, ("throttled",))
        server.use()
        assert fetch(tmp_path).done == 1


def test_a_wrong_digest_leaves_no_final_name_and_says_both(
    server: hf.chaos.Server, tmp_path: Path
) -> None:
    wrong = "0" * 64
    report = fetch(tmp_path, server.url("/a"), sha256=wrong)
    assert report.exit_code == 1
    assert report.failed[0].code == "HF-1401"
    assert wrong in report.failed[0].text
    assert server.expected_sha256("/a") in report.failed[0].text
    assert not (tmp_path / "a").exists()
    # The right one adopts what was fetched.
    before = server.stats.bytes_down
    assert fetch(tmp_path, server.url("/a"), sha256=server.expected_sha256("/a")).done == 1
    assert server.stats.bytes_down == before


def test_stop_ends_a_stalled_run_and_keeps_every_byte(tmp_path: Path) -> None:
    stall = hf.chaos.Stall(after_bytes=60 * KIB)
    with hf.chaos.server(hf.chaos.Object("/x", 100 * KIB), faults=[stall]) as server:
        with downloads(tmp_path, timeouts=None) as d:
            d.add(server.url("/x"))
            threading.Timer(0.5, d.stop).start()
            before = time.monotonic()
            report = d.run()
            assert time.monotonic() - before < 2
        assert (report.exit_code, report.left, report.interrupted) == (130, 1, True)
        server.use()
        assert fetch(tmp_path).done == 1
        assert server.stats.bytes_down == 100 * KIB


def test_stop_ends_a_run_in_its_backoff(tmp_path: Path) -> None:
    policy = hf.policy(hf.Retry(5, backoff=hf.Constant(30), budget=None))
    with hf.chaos.server(hf.chaos.Object("/x", 1), faults=[hf.chaos.Status(500)]) as server:
        with downloads(tmp_path, policy=policy) as d:
            d.add(server.url("/x"))
            threading.Timer(0.3, d.stop).start()
            before = time.monotonic()
            report = d.run()
            assert time.monotonic() - before < 1
        assert report.exit_code == 130
        server.use()
        assert fetch(tmp_path).done == 1


@pytest.fixture
def heeding_ctrl_c() -> Iterator[None]:
    # A shell lets its background jobs ignore SIGINT, and this may be one.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeding_ctrl_c")
@pytest.mark.parametrize("where", ["stall", "backoff"])
def test_ctrl_c_is_raised_again_when_the_bytes_are_safe(where: str, tmp_path: Path) -> None:
    fault = hf.chaos.Stall(after_bytes=60 * KIB) if where == "stall" else hf.chaos.Status(500)
    policy = hf.policy(hf.Retry(5, backoff=hf.Constant(30), budget=None))
    with hf.chaos.server(hf.chaos.Object("/x", 100 * KIB), faults=[fault]) as server:
        with downloads(tmp_path, timeouts=None, policy=policy) as d:
            d.add(server.url("/x"))
            threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT]).start()
            before = time.monotonic()
            with pytest.raises(KeyboardInterrupt):
                d.run()
            assert time.monotonic() - before < 2.5
        kept = read_status(str(tmp_path)).items[0].kept
        assert kept == (60 * KIB if where == "stall" else 0)


def test_a_reader_sees_the_state_while_it_runs(tmp_path: Path) -> None:
    stall = hf.chaos.Stall(after_bytes=60 * KIB)
    with hf.chaos.server(hf.chaos.Object("/x", 100 * KIB), faults=[stall]) as server:
        with downloads(tmp_path, timeouts=None) as d:
            d.add(server.url("/x"))
            thread = threading.Thread(target=d.run)
            thread.start()
            # Another connection of this process sees what another process would see.
            until = time.monotonic() + 10
            while not read_status(str(tmp_path)).items[0].kept and time.monotonic() < until:
                time.sleep(0.02)
            code = (
                "import sys\nfrom holdfast.downloads.downloads import read_status\n"
                "item = read_status(sys.argv[1]).items[0]\nprint(item.state, item.kept > 0)"
            )
            words = [sys.executable, "-c", code, str(tmp_path)]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            server.use()
            d.stop()
            thread.join()
            assert done.stdout == "active True\n"
            assert d.run().done == 1
        assert read_status(str(tmp_path)).counts == {"done": 1}


def test_events_tell_the_course_of_a_file(server: hf.chaos.Server, tmp_path: Path) -> None:
    server.use(hf.chaos.Reset(after_bytes=50 * KIB, limit=1))
    heard = Heard()
    with downloads(tmp_path) as d:
        d.watch(heard)
        item = d.add(server.url("/a"))
        d.run()
    assert heard.states == ["active", "verifying", "finishing", "done"]
    assert {(event.id, event.path) for event in heard.events} == {(item, "a")}
    assert [a.kind for a in heard.named("Attempt")] == ["transient", "ok"]
    assert heard.named("Waited")[0].why == "backoff"
    resumed = heard.named("ResumeAccepted")[0]
    assert (resumed.rung, resumed.offset) == ("if-match", 50 * KIB)


def test_failed_attempts_are_remembered_and_bounded(tmp_path: Path) -> None:
    cut = hf.chaos.Reset(after_bytes=100, limit=130)
    with hf.chaos.server(hf.chaos.Object("/x", 20_000, faults=[cut])) as server:
        assert fetch(tmp_path, server.url("/x")).done == 1
    with closing(sqlite3.connect(tmp_path / ".holdfast.db")) as db:
        rows = db.execute(
            "SELECT no, kind, sent, reason, bytes FROM attempt ORDER BY no"
        ).fetchall()
    assert len(rows) == 100
    assert rows[-1] == (130, "transient", "yes", "ECONNRESET", 100)
    assert read_status(str(tmp_path)).items[0].attempts == 130


def test_no_thread_and_no_descriptor_is_left(server: hf.chaos.Server, tmp_path: Path) -> None:
    def open_now() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    fetch(tmp_path, server.url("/a"))
    threads, descriptors = threading.active_count(), open_now()
    for name in "bc":
        fetch(tmp_path, server.url(f"/{name}"))
    assert threading.active_count() == threads
    assert open_now() <= descriptors + 1  # the server may not have closed its end yet
