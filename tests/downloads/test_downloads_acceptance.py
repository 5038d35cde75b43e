"""What a user was promised, check by check, on real sockets and at the size it was said for.

What takes hours or half minutes there is scaled here; each such test says how.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from downloads_rig import Heard, downloads, names_in, quick_policy, sha256_of

import holdfast as hf
import holdfast.downloads.engine
from holdfast.chaos.message import Answer, text_answer
from holdfast.transfer.plane import Timeouts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KIB = 1024
MIB = 1 << 20

PLANES = pytest.mark.parametrize("plane", ["threads", "asyncio"])


def fetch(into: Path, *urls: str, **options: object) -> hf.downloads.Report:
    with downloads(into, **options) as d:
        for url in urls:
            d.add(url)
        return d.run()


# -- one file over a bad link ----------------------------------------------------------------------


def test_resets_every_half_mebibyte_cost_no_byte_twice(tmp_path: Path) -> None:
    """4 MB, a reset each 512 KiB: offsets rise, hardly anything is served twice."""
    cut = hf.chaos.Reset(after_bytes=512 * KIB)
    with hf.chaos.server(hf.chaos.Object("/x", 4 * MIB), faults=[cut]) as server:
        heard = Heard()
        with downloads(tmp_path) as d:
            d.watch(heard)
            d.add(server.url("/x"))
            assert d.run().exit_code == 0
        offsets = [event.offset for event in heard.named("ResumeAccepted")]
        assert offsets == sorted(set(offsets))
        assert len(offsets) >= 7
        assert server.stats.bytes_down <= 1.2 * 4 * MIB
        assert sha256_of(tmp_path / "x") == server.expected_sha256("/x")


def test_fifty_drops_need_six_attempts_and_no_more(tmp_path: Path) -> None:
    """Attempts count those without progress; here each makes some."""
    cut = hf.chaos.Reset(after_bytes=64 * KIB, limit=50)
    with hf.chaos.server(hf.chaos.Object("/x", 4 * MIB), faults=[cut]) as server:
        report = fetch(tmp_path, server.url("/x"), policy=quick_policy(6))
        assert (report.exit_code, server.stats.faults["reset"]) == (0, 50)
        assert sha256_of(tmp_path / "x") == server.expected_sha256("/x")


@pytest.mark.parametrize("size", [2 * MIB, 3 * MIB], ids=["same size", "other size"])
def test_a_new_etag_at_a_resume_gives_the_new_version_whole(size: int, tmp_path: Path) -> None:
    stall = hf.chaos.Stall(after_bytes=MIB, limit=1)
    with hf.chaos.server(hf.chaos.Object("/x", 2 * MIB), faults=[stall]) as server:
        with downloads(tmp_path, timeouts=Timeouts()) as d:
            d.add(server.url("/x"))
            thread = threading.Thread(target=d.run)
            thread.start()
            wait_until(lambda: server.stats.faults["stall"] == 1)
            time.sleep(0.1)
            d.stop()
            thread.join()
            assert d.status().items[0].kept > 0
        server.replace("/x", size)
        assert fetch(tmp_path).done == 1
        assert (tmp_path / "x").stat().st_size == size
        assert sha256_of(tmp_path / "x") == server.expected_sha256("/x", version=2)


def wait_until(true) -> None:
    until = time.monotonic() + 20
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_silence_ends_within_twenty_seconds(tmp_path: Path) -> None:
    """The limit is 15 s by default; scaled to a tenth, with the same share for what follows."""
    assert Timeouts().idle == 15
    stall = hf.chaos.Stall(after_bytes=MIB, limit=1)
    with hf.chaos.server(hf.chaos.Object("/x", 2 * MIB), faults=[stall]) as server:
        idle = Timeouts(idle=1.5)
        report = fetch(tmp_path, server.url("/x"), timeouts=idle)
        assert report.exit_code == 0
        assert 1.5 <= report.seconds <= 2.0
        assert server.stats.bytes_down == 2 * MIB


def test_one_stalled_stream_of_four_is_replaced_within_three_seconds(tmp_path: Path) -> None:
    """With the usual timeouts: its peers show that it is the connection, not the host."""
    slow = hf.chaos.Slow(bytes_per_second=4 * MIB)
    stall = hf.chaos.Stall(after_bytes=MIB, skip=1, limit=1)
    size = 48 * MIB
    heard, stalled = Heard(), 0.0
    with hf.chaos.server(hf.chaos.Object("/x", size), faults=[slow, stall]) as server:
        with downloads(tmp_path, timeouts=Timeouts()) as d:
            d.watch(heard)
            d.add(server.url("/x"))
            thread = threading.Thread(target=d.run)
            thread.start()
            wait_until(lambda: server.stats.faults["stall"] == 1)
            stalled = time.monotonic()
            connections = server.stats.connections
            wait_until(lambda: server.stats.connections > connections)
            assert time.monotonic() - stalled <= 3.5  # 0.5 for a machine that is busy
            thread.join()
        assert server.stats.bytes_down <= 1.01 * size + 4 * MIB
        assert sha256_of(tmp_path / "x") == server.expected_sha256("/x")


# -- a host that is in trouble ---------------------------------------------------------------------


class Throttled:
    """An origin of small files that refuses for a while, and notes when it was asked."""

    def __init__(self, status: int, after: int, seconds: float) -> None:
        self.status = status
        self.after = after
        self.seconds = seconds
        self.began = 0.0
        self.at: list[float] = []

    def answer(self, request: hf.chaos.Request) -> Answer | bytes:
        now = time.monotonic()
        self.at.append(now)
        if len(self.at) == self.after:
            self.began = now
        if self.began and now < self.began + self.seconds:
            refusal = text_answer(self.status, "come back later\n")
            refusal.headers["Retry-After"] = "1"
            return refusal
        return request.path.encode()

    def rate(self, start: float, end: float) -> float:
        return sum(start <= at < end for at in self.at) / (end - start)


@pytest.mark.parametrize(("status", "plane"), [(503, "threads"), (429, "asyncio")])
def test_a_throttling_host_is_asked_a_fifth_as_often_and_nothing_fails(
    status: int, plane: str, tmp_path: Path
) -> None:
    """30 s of refusals with `Retry-After: 5`, scaled to a fifth: 6 s with 1."""
    origin = Throttled(status, after=150, seconds=6)
    with (
        hf.chaos.server(hf.chaos.Handler("/*", origin.answer)) as server,
        downloads(tmp_path, plane=plane, policy=None, durability="process") as d,
    ):
        for n in range(400):
            d.add(server.url(f"/{n}"))
        report = d.run()
    assert (report.done, report.exit_code) == (400, 0)
    before = origin.rate(origin.at[0], origin.began)
    assert origin.rate(origin.began + 0.05, origin.began + 6) <= before / 5
    # A tenth of a second of what was under way when it began is not counted; all of the rest is.
    assert (tmp_path / "399").read_bytes() == b"/399"


@PLANES
def test_what_is_absent_or_forbidden_is_asked_once_and_retried_alone(
    plane: str, tmp_path: Path
) -> None:
    """Of 1,000 files 30 do not exist and 20 are forbidden."""
    asked: Counter[str] = Counter()
    wrong = {f"/{n}": 404 for n in range(0, 900, 30)} | {f"/{n}": 403 for n in range(7, 1000, 50)}

    def answer(request: hf.chaos.Request) -> Answer | bytes:
        asked[request.path] += 1
        status = wrong.get(request.path)
        return text_answer(status, "no\n") if status else request.path.encode()

    with (
        hf.chaos.server(hf.chaos.Handler("/*", answer)) as server,
        downloads(tmp_path, plane=plane, durability="process") as d,
    ):
        for n in range(1000):
            d.add(server.url(f"/{n}"))
        report = d.run()
        assert (report.done, len(report.failed), report.exit_code) == (950, 50, 1)
        assert asked == dict.fromkeys([f"/{n}" for n in range(1000)], 1)
        codes = Counter(item.code for item in report.failed)
        assert codes == {"HF-1301": 30, "HF-1302": 20}
        assert len(names_in(tmp_path)) == 950
        # Half of them are there by now. Only what failed is asked for again.
        asked.clear()
        mended = list(wrong)[::2]
        for path in mended:
            del wrong[path]
        assert d.retry_failed() == 50
        again = d.run()
        assert (again.done, len(again.failed), again.exit_code) == (25, 25, 1)
        assert asked == dict.fromkeys([*mended, *wrong], 1)


# -- control ---------------------------------------------------------------------------------------


def test_ctrl_c_ends_a_wait_of_half_a_minute_and_the_command_goes_on(tmp_path: Path) -> None:
    """The server asks for 30 s; the command ends within 2 s of the signal, with 130."""
    refusal = hf.chaos.Status(503, retry_after=30, skip=1)
    cut = hf.chaos.Reset(after_bytes=60 * KIB, limit=1)
    with hf.chaos.server(hf.chaos.Object("/x", 100 * KIB), faults=[cut, refusal]) as server:
        words = [sys.executable, "-m", "holdfast", "get", server.url("/x"), "-o", str(tmp_path)]
        with subprocess.Popen(
            words,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no thread yet
        ) as process:
            wait_until(lambda: server.stats.statuses[503] == 1)
            time.sleep(0.2)
            before = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 130
            assert time.monotonic() - before <= 2
        server.use()
        done = subprocess.run(words, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert server.stats.bytes_down == 100 * KIB + len("try again later\n")
        assert sha256_of(tmp_path / "x") == server.expected_sha256("/x")


@PLANES
def test_one_done_file_that_was_deleted_is_fetched_and_only_it(plane: str, tmp_path: Path) -> None:
    objects = [hf.chaos.Object(f"/{n}", 1000 + n) for n in range(50)]
    with hf.chaos.server(*objects) as server:
        urls = [server.url(route.path) for route in objects]
        assert fetch(tmp_path, *urls, plane=plane).done == 50
        (tmp_path / "17").unlink()
        report = fetch(tmp_path, *urls, plane=plane)
        assert (report.done, report.skipped, report.fetched) == (1, 49, 1017)
        assert [entry.path for entry in server.log[50:]] == ["/17"]
        assert sha256_of(tmp_path / "17") == server.expected_sha256("/17")


# -- a full disk -----------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MiB, 3 of which are taken by a file named `ballast`."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(place)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    try:
        (place / "ballast").write_bytes(bytes(3 * MIB))
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_full_disk_is_waited_for_and_what_was_fetched_is_kept(
    framing: str, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a file of known size the place is taken at once, so that it is full before a byte."""
    monkeypatch.setattr(holdfast.downloads.engine, "ROOM_EVERY", 0.05)
    heard = Heard()
    obj = hf.chaos.Object("/x", 4 * MIB, framing=framing)
    with hf.chaos.server(obj) as server:
        reports: list[hf.downloads.Report] = []
        with downloads(small_disk, space_check=False) as d:
            d.watch(heard)
            d.add(server.url("/x"), sha256=server.expected_sha256("/x"))
            thread = threading.Thread(target=lambda: reports.append(d.run()))
            thread.start()
            wait_until(lambda: "paused" in heard.states)
            (small_disk / "ballast").unlink()
            thread.join()
        assert [report.exit_code for report in reports] == [0]
        assert sha256_of(small_disk / "x") == server.expected_sha256("/x")
        assert names_in(small_disk) == ["x"]
    paused = next(e for e in heard.named("FileState") if e.state == "paused")
    assert (paused.reason, paused.code) == ("disk", "HF-1204")
    assert [alert.cleared for alert in heard.named("Alert")] == [False, True]
    offsets = [event.offset for event in heard.named("ResumeAccepted")]
    if framing == "chunked":
        assert offsets[0] > 2 * MIB
    # A buffer that was in hand when it was full is fetched again, and nothing else.
    assert reports[0].fetched <= 4 * MIB + MIB
