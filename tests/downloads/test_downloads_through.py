"""Downloads that aria2 fetches: plan, journal, verification, failed list and report stay ours."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest
from downloads_aria2_rig import Daemon, free_port, needs_aria2c
from downloads_rig import Heard, names_in

import holdfast as hf
from holdfast.chaos import Object, Reset, Slow, Status
from holdfast.downloads import DownloadError
from holdfast.downloads.downloads import read_status
from holdfast.telemetry import Secret

if TYPE_CHECKING:
    from pathlib import Path

KIB = 1024


def ours(directory: Path) -> list[str]:
    """Return what lies there but the journals and the lock."""
    return [name for name in names_in(directory) if not name.startswith(".holdfast-aria2")]


@needs_aria2c
def test_a_service_of_our_own_fetches_and_we_verify_and_rename(tmp_path: Path) -> None:
    with hf.chaos.server(Object("/a", 300 * KIB), Object("/b", 5000)) as server:
        with hf.Downloads(tmp_path, via="aria2://local") as downloads:
            heard = Heard()
            downloads.watch(heard)
            downloads.add(server.url("/a"), sha256=server.expected_sha256("/a"))
            downloads.add(server.url("/b"), path="below/b")
            report = downloads.run()
        assert (report.done, report.failed, report.exit_code) == (2, (), 0)
        assert report.unverified == 1  # nothing vouches for b: aria2 may mix two versions of it
        assert report.fetched == 300 * KIB + 5000
        assert (tmp_path / "a").read_bytes() == server.expected_bytes("/a")
        assert (tmp_path / "below" / "b").read_bytes() == server.expected_bytes("/b")
        assert ours(tmp_path) == ["a", "below"]
        verified = {item.path: item.verified for item in read_status(str(tmp_path)).items}
        assert verified == {"a": "sha256", "below/b": "unverified"}
        assert heard.states.count("done") == 2
        requests = server.stats.requests
        with hf.Downloads(tmp_path, via="aria2://local") as downloads:
            downloads.add(server.url("/a"), sha256=server.expected_sha256("/a"))
            assert downloads.run().skipped == 1
        assert server.stats.requests == requests


@needs_aria2c
def test_failures_are_in_our_failed_list_and_repeated_by_us(tmp_path: Path) -> None:
    with (
        hf.chaos.server(Object("/a", 1000)) as server,
        hf.Downloads(tmp_path, via="aria2://local", attempts=2) as downloads,
    ):
        downloads.add(server.url("/gone"))
        downloads.add(server.url("/a"), md5="0" * 32)
        report = downloads.run()
        assert report.exit_code == 1
        assert {item.path: item.reason for item in report.failed} == {
            "gone": "not-found",
            "a": "digest",
        }
        assert ours(tmp_path) == []
        assert downloads.retry_failed() == 2
        assert len(downloads.run(only_failed=True).failed) == 2


@needs_aria2c
def test_a_broken_link_is_resumed_by_aria2(tmp_path: Path) -> None:
    cut = Reset(after_bytes=2 << 20, limit=2)
    with hf.chaos.server(Object("/a", 8 << 20, faults=[cut])) as server:
        with hf.Downloads(tmp_path, via="aria2://local") as downloads:
            downloads.add(server.url("/a"), sha256=server.expected_sha256("/a"))
            report = downloads.run()
        assert (report.done, report.exit_code) == (1, 0)
        assert server.stats.bytes_down < 10 << 20
        assert ours(tmp_path) == ["a"]


@needs_aria2c
def test_a_service_elsewhere_needs_its_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, into = tmp_path / "there", tmp_path / "into"
    there.mkdir()
    with Daemon(there) as daemon, hf.chaos.server(Object("/a", 1000)) as server:
        address = f"aria2://127.0.0.1:{daemon.port}"
        monkeypatch.setenv("THE_SECRET", daemon.secret)
        (tmp_path / "secret").write_text(daemon.secret + "\n")
        for n, secret in enumerate(("env:THE_SECRET", f"file:{tmp_path}/secret")):
            with hf.Downloads(into, via=address, aria2_secret=secret) as downloads:
                downloads.add(server.url("/a"), path=f"a{n}")
                assert downloads.run().exit_code == 0
        with hf.Downloads(into, via=address, aria2_secret=Secret("wrong-secret")) as downloads:
            downloads.add(server.url("/a"), path="c")
            with pytest.raises(hf.HoldfastError) as caught:
                downloads.run()
        assert caught.value.code == "HF-1602"
        assert ours(into) == ["a0", "a1"]


@needs_aria2c
def test_files_on_another_machine_are_done_and_unverified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The service runs here, but is said to run elsewhere: none of its files is looked at.
    monkeypatch.setattr("holdfast.downloads.aria2.core.is_here", lambda _: False)
    there, into = tmp_path / "there", tmp_path / "into"
    there.mkdir()
    monkeypatch.chdir(tmp_path)
    with Daemon(there) as daemon, hf.chaos.server(Object("/a", 3000)) as server:
        address = f"aria2://127.0.0.1:{daemon.port}"
        for expected in ((1, 0), (0, 1)):
            with hf.Downloads("into", via=address, aria2_secret=Secret(daemon.secret)) as downloads:
                downloads.add(server.url("/a"))
                report = downloads.run()
            assert (report.done, report.skipped) == expected
        assert report.exit_code == 0
        assert ours(into) == []
        assert (there / "into" / "a").read_bytes() == server.expected_bytes("/a")
    assert [item.verified for item in read_status("into").items] == ["unverified"]


@needs_aria2c
@pytest.mark.parametrize("how", ["stop", "cancel"])
def test_a_stop_takes_less_than_two_seconds_and_keeps_the_bytes(how: str, tmp_path: Path) -> None:
    slow = Object("/a", 4 << 20, faults=[Slow(1 << 20, limit=2)])  # a HEAD, and the GET
    with hf.chaos.server(slow) as server:
        with hf.Downloads(tmp_path, via="aria2://local") as downloads:
            item = downloads.add(server.url("/a"), sha256=server.expected_sha256("/a"))
            reports: list[hf.downloads.Report] = []
            running = threading.Thread(target=lambda: reports.append(downloads.run()))
            running.start()
            until = time.monotonic() + 20
            while server.stats.bytes_down < (2 << 20):
                assert time.monotonic() < until
                time.sleep(0.02)
            began = time.monotonic()
            _ = downloads.stop() if how == "stop" else downloads.cancel(item)
            running.join(20)
            assert time.monotonic() - began < 5  # with the end of aria2c itself
        if how == "cancel":
            assert ours(tmp_path) == []
            return
        assert (reports[0].left, reports[0].exit_code) == (1, 130)
        with hf.Downloads(tmp_path, via="aria2://local") as downloads:
            assert downloads.run().exit_code == 0
        assert any(entry.range.startswith("bytes=") for entry in server.log)
        assert ours(tmp_path) == ["a"]


@needs_aria2c
def test_a_file_that_is_too_large_or_in_the_way_fails_and_touches_nothing(tmp_path: Path) -> None:
    with hf.chaos.server(Object("/a", 5000), Object("/b", 900)) as server:
        (tmp_path / "b").write_bytes(b"mine")
        with hf.Downloads(tmp_path, via="aria2://local", max_size=4000) as downloads:
            downloads.add(server.url("/a"))
            downloads.add(server.url("/b"))
            report = downloads.run()
        assert {item.path: item.reason for item in report.failed} == {
            "a": "too-big",
            "b": "exists",
        }
        assert (tmp_path / "b").read_bytes() == b"mine"


@needs_aria2c
def test_a_server_that_asks_for_patience_is_given_it(tmp_path: Path) -> None:
    busy = Object("/a", 1000, faults=[Status(503, limit=2)])
    with (
        hf.chaos.server(busy) as server,
        hf.Downloads(tmp_path, via="aria2://local") as downloads,
    ):
        downloads.add(server.url("/a"))
        assert downloads.run().exit_code == 0


def test_without_a_service_the_run_is_refused_for_now(tmp_path: Path) -> None:
    address = f"aria2://127.0.0.1:{free_port()}"
    with hf.Downloads(tmp_path, via=address) as downloads:
        downloads.add("http://127.0.0.1:1/a")
        with pytest.raises(hf.HoldfastError) as caught:
            downloads.run()
    assert (caught.value.code, caught.value.exit_code) == ("HF-1601", 75)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"via": "http://h:1"}, "write `aria2://HOST:PORT`"),
        ({"via": "aria2://"}, "write `aria2://HOST:PORT`"),
        ({"via": "aria2://h:1/jsonrpc"}, "nothing behind it"),
        ({"via": "aria2://u:secret-word@h:1"}, "a secret does not belong into the address"),
        ({"via": "aria2://h:1", "aria2_secret": "secret-word"}, "`env:NAME` or `file:PATH`"),
        ({"via": "aria2://h:1", "aria2_secret": "env:NO_SUCH_NAME"}, "`NO_SUCH_NAME` is not set"),
        ({"via": "aria2://h:1", "aria2_secret": "file:/no/such"}, "No such file"),
        ({"via": "aria2://local", "aria2_secret": Secret("x")}, "makes its own"),
        ({"via": "aria2://local", "limit_rate": 10_000}, "`limit_rate` has no effect"),
        ({"via": "aria2://local", "plane": "threads"}, "`plane` has no effect"),
        ({"via": "aria2://local", "allow_html": True}, "`allow_html` has no effect"),
        ({"via": "aria2://local", "content_disposition": True}, "has no effect with `via`"),
        ({"aria2_secret": Secret("x")}, "has no effect without `via`"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(
    options: dict[str, object], what: str, tmp_path: Path
) -> None:
    with pytest.raises(DownloadError) as caught:
        hf.Downloads(tmp_path / "new", **options)
    assert caught.value.code == "HF-1003"
    assert what in str(caught.value)
    assert "secret-word" not in str(caught.value)
    assert not (tmp_path / "new").exists()
