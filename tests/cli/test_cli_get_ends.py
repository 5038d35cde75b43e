"""How `holdfast get` ends: each exit code by a real run, what is left, and how it is taken up."""

from __future__ import annotations

import signal
import socket
import time
from typing import TYPE_CHECKING

import pytest
from cli_rig import KIB, events_of, get, running, until

import holdfast as hf
from holdfast.chaos import Object, Slow, Stall, Status

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_0_is_done_or_there_already(tmp_path: Path) -> None:
    with hf.chaos.server(Object("/a", 100)) as server:
        for _ in range(2):
            assert get(server.url("/a"), "-o", str(tmp_path)).returncode == 0
        assert server.stats.requests == 1


def test_1_is_some_failed_and_only_these_are_repeated(tmp_path: Path) -> None:
    with hf.chaos.server(Object("/a", 100), Object("/b", 100, faults=[Status(404)])) as server:
        urls = [server.url(path) for path in ("/a", "/b", "/gone")]
        done = get(*urls, "-o", str(tmp_path))
        assert done.returncode == 1
        assert f"Repeat what failed with `holdfast get retry-failed -o {tmp_path}`." in done.stderr
        server.route("/b").draws.clear()
        requests = server.stats.requests
        again = get("retry-failed", "-o", str(tmp_path))
        assert again.returncode == 1  # one of the two is not there still
        assert again.stdout == "done: `b` (100 B, size checked, no digest known)\n"
        assert "1 done, 0 skipped, 1 failed" in again.stderr
        assert server.stats.requests == requests + 2


def test_nothing_to_repeat_is_fine(tmp_path: Path) -> None:
    with hf.chaos.server(Object("/a", 100)) as server:
        assert get(server.url("/a"), "-o", str(tmp_path)).returncode == 0
        again = get("retry-failed", "-o", str(tmp_path))
    assert again.returncode == 0
    assert "0 done, 0 skipped, 0 failed" in again.stderr


def test_retry_failed_leaves_what_is_open_alone(tmp_path: Path) -> None:
    objects = Object("/slow", 300 * KIB, faults=[Stall(after_bytes=KIB, limit=1)])
    with hf.chaos.server(objects) as server:
        with running(server.url("/slow"), server.url("/gone"), "-o", str(tmp_path)) as process:
            until(lambda: server.stats.requests == 2)
            time.sleep(0.3)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=20)
        requests = server.stats.requests
        assert get("retry-failed", "-o", str(tmp_path)).returncode == 1
        assert server.stats.requests == requests + 1
        assert get("-o", str(tmp_path)).returncode == 0


def test_2_is_a_mistake_or_no_room(tmp_path: Path) -> None:
    assert get("nonsense", "-o", str(tmp_path)).returncode == 2
    assert get("retry-failed", "-o", str(tmp_path / "no")).returncode == 2
    assert get("http://127.0.0.1:1/a", "--date", "202102", "-o", str(tmp_path)).returncode == 2


def test_3_is_work_left_when_time_is_up(tmp_path: Path) -> None:
    with hf.chaos.server(Object("/a", 4 * MIB, faults=[Slow(128 * KIB, limit=1)])) as server:
        words = [server.url("/a"), "-o", str(tmp_path)]
        began = time.monotonic()
        done = get(*words, "--max-time", "1")
        assert done.returncode == 3
        assert time.monotonic() - began < 15  # the whole would take 32 s
        assert "1 left (max-time)" in done.stderr
        assert f"Go on with `holdfast get -o {tmp_path}`." in done.stderr
        assert get(*words).returncode == 0
        assert server.stats.bytes_down < 5 * MIB


def test_75_is_a_host_that_asks_for_hours_or_another_process(tmp_path: Path) -> None:
    busy = Status(503, retry_after=7200)
    with hf.chaos.server(Object("/a", 10, faults=[busy])) as server:
        done = get(server.url("/a"), "-o", str(tmp_path))
        assert done.returncode == 75
        assert "1 left (throttled)" in done.stderr
        with hf.Downloads(tmp_path):
            assert get(server.url("/a"), "-o", str(tmp_path)).returncode == 75
    away = f"aria2://127.0.0.1:{free_port()}"
    done = get("http://127.0.0.1:1/a", "--via", away, "-o", str(tmp_path / "via"))
    assert done.returncode == 75
    assert "[HF-1601]" in done.stderr


def test_130_is_ctrl_c_in_a_long_backoff_and_what_came_is_kept(tmp_path: Path) -> None:
    busy = Status(503, retry_after=30, limit=1)
    objects = (
        Object("/a", 10, faults=[busy]),
        Object("/b", 300 * KIB, faults=[Stall(after_bytes=200 * KIB, limit=1)]),
    )
    with hf.chaos.server(*objects) as server:
        words = [server.url("/b"), server.url("/a"), "-o", str(tmp_path)]
        with running(*words, "--json") as process:
            until(lambda: server.stats.requests == 2 and server.stats.bytes_down >= 200 * KIB)
            time.sleep(0.5)
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=20)
            assert time.monotonic() - began < 2
        assert process.returncode == 130
        assert err == ""
        assert '"event":"Report"' in out.splitlines()[-1]
        down = server.stats.bytes_down
        assert get(*words).returncode == 0
        assert server.stats.bytes_down - down <= 101 * KIB


def test_status_tells_each_state_in_files_and_bytes_while_another_process_works(
    tmp_path: Path,
) -> None:
    slow = Object("/slow", 300 * KIB, faults=[Stall(after_bytes=200 * KIB, limit=1)])
    with hf.chaos.server(Object("/a", 10 * KIB), slow) as server:
        urls = [server.url(path) for path in ("/a", "/gone", "/slow")]
        with running(*urls, "-o", str(tmp_path)) as process:

            def counts() -> dict[str, int]:
                found: dict[str, int] = events_of(get("status", "-o", str(tmp_path), "--json"))[-1][
                    "counts"
                ]
                return found

            until((tmp_path / "a").exists)
            until(lambda: counts() == {"done": 1, "failed": 1, "active": 1})
            status = get("status", "-o", str(tmp_path))
            assert process.poll() is None
    assert status.returncode == 0
    lines = status.stdout.splitlines()
    assert any(line.startswith("failed: `gone` (0 B): the server does not have") for line in lines)
    assert any(line.startswith("active: `slow` (") for line in lines)
    assert "1 done (10.0 KiB)" in lines
    assert "1 failed (0 B, 1 of unknown size)" in lines


def test_status_of_many_that_wait_names_some_and_counts_all(tmp_path: Path) -> None:
    with hf.Downloads(tmp_path) as downloads:
        downloads.add_many(f"http://127.0.0.1:1/{n}" for n in range(50))
        lines = get("status", "-o", str(tmp_path)).stdout.splitlines()
    assert len(lines) == 12
    assert lines[0] == "queued: `0` (0 B)"
    assert lines[-2:] == [
        "and 40 more wait for their turn",
        "50 queued (0 B, 50 of unknown size)",
    ]


@pytest.mark.parametrize("word", ["status", "retry-failed"])
def test_a_directory_without_a_journal_is_said_so(word: str, tmp_path: Path) -> None:
    done = get(word, "-o", str(tmp_path))
    assert done.returncode == 2
    assert "[HF-1008]" in done.stderr
    assert list(tmp_path.iterdir()) == []
