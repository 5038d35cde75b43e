"""Fetching by aria2 on behalf of others: bytes at the path that was asked for, or the reason."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import pytest
from downloads_aria2_rig import Daemon, needs_aria2c

import holdfast as hf
from holdfast.chaos import Object, Slow
from holdfast.downloads.aria2 import DownloadProgress, Via, ViaFailed
from holdfast.downloads.aria2.via import failure_of
from holdfast.telemetry import Secret
from holdfast.transfer.verify import Digest

if TYPE_CHECKING:
    from pathlib import Path


@needs_aria2c
def test_a_service_of_our_own_fetches_to_the_path_that_was_asked_for(tmp_path: Path) -> None:
    with (
        hf.chaos.server(Object("/a", 700_000, faults=[Slow(700_000)])) as server,
        Via.of("aria2://local", tmp_path) as via,
    ):
        part = tmp_path / ".a.part"
        seen = list(via.fetch(server.url("/a"), {"X-A": "1"}, str(part), 700_000))
        assert part.read_bytes() == server.expected_bytes("/a")
        assert via.shared
    assert len(seen) >= 2
    assert seen[-1].status == "complete"
    assert [p.completed_length for p in seen] == sorted(p.completed_length for p in seen)


@needs_aria2c
def test_a_service_elsewhere_is_named_by_its_address(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon, hf.chaos.server(Object("/a", 1000)) as server:
        secret = Secret(daemon.secret)
        with Via.of(f"aria2://127.0.0.1:{daemon.port}", tmp_path, secret=secret) as via:
            digest = Digest("sha256", server.expected_sha256("/a"))
            *_, last = via.fetch(server.url("/a"), {}, str(tmp_path / "a"), None, digest)
            assert last.status == "complete"
            with pytest.raises(ViaFailed) as caught:
                list(via.fetch(server.url("/a"), {}, str(tmp_path / "b"), 999))
            assert caught.value.failure.code == "HF-1403"
            wrong = Digest("sha256", "0" * 64)
            with pytest.raises(ViaFailed) as caught:
                list(via.fetch(server.url("/a"), {}, str(tmp_path / "c"), None, wrong))
            assert caught.value.failure.reason == "digest"
            with pytest.raises(ViaFailed) as caught:
                list(via.fetch(server.url("/none"), {}, str(tmp_path / "d")))
            assert caught.value.failure.reason == "not-found"
            again = pickle.loads(pickle.dumps(caught.value))
            assert again.failure == caught.value.failure


@needs_aria2c
def test_what_is_stopped_early_goes_on_with_its_bytes(tmp_path: Path) -> None:
    slow = Object("/a", 4 << 20, faults=[Slow(2 << 20, limit=2)])
    with (
        Daemon(tmp_path, "auto-save-interval=1") as daemon,
        hf.chaos.server(slow) as server,
        Via.of(f"aria2://127.0.0.1:{daemon.port}", tmp_path, secret=Secret(daemon.secret)) as via,
    ):
        fetching = via.fetch(server.url("/a"), {}, str(tmp_path / "a"))
        while next(fetching).completed_length < (1 << 20):
            pass
        fetching.close()
        *_, last = via.fetch(server.url("/a"), {}, str(tmp_path / "a"))
        assert last.status == "complete"
        assert (tmp_path / "a").read_bytes() == server.expected_bytes("/a")
        assert any(e.range.startswith("bytes=") for e in server.log if e.method == "GET")


@pytest.mark.parametrize("address", ["http://h:1", "aria2://", "aria2://u:p@h:1"])
def test_an_address_of_another_form_is_refused(address: str, tmp_path: Path) -> None:
    with pytest.raises(hf.HoldfastError) as caught:
        Via.of(address, tmp_path)
    assert caught.value.code == "HF-1003"
    assert "u:p" not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "text", "reason"),
    [
        ("1", "No URI available.", "connection-lost"),
        ("2", "x", "stalled"),
        ("19", "x", "no-such-host"),
        ("22", "status=403", "forbidden"),
        ("22", "status=429", "throttled"),
        ("22", "status=502", "server-error"),
        ("22", "status=418", "status"),
        ("29", "x", "server-error"),
    ],
)
def test_aria2s_codes_become_reasons(code: str, text: str, reason: str) -> None:
    progress = DownloadProgress("0" * 16, "error", error_code=code, error_message=text)
    assert failure_of(progress).reason == reason


def test_what_was_removed_is_cancelled() -> None:
    assert failure_of(DownloadProgress("0" * 16, "removed")).reason == "cancelled"
