"""What `holdfast get` shows while it works: a terminal, plain lines, and every JSON event."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from cli_rig import KIB, command, events_of, get, on_a_terminal, screens

import holdfast as hf
from holdfast.chaos import Object, Reset, Slow, Status
from holdfast.cli.board import Board, row_text
from holdfast.cli.output import Console
from holdfast.cli.progress import SCHEMA, Display, event_fields
from holdfast.core import events
from holdfast.downloads.items import FileState, ItemEvent, ListingPage

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20


def state(name: str, at: float = 0.0, **more: Any) -> FileState:
    return FileState(time=at, policy="downloads", state=name, **more)


# -- a terminal ------------------------------------------------------------------------------------


def test_a_terminal_shows_each_file_a_total_and_is_clean_at_the_end(tmp_path: Path) -> None:
    objects = [Object(f"/{n}.nc", 6 * MIB, faults=[Slow(2 * MIB)]) for n in "ab"]
    with hf.chaos.server(*objects) as server:
        urls = [server.url(f"/{n}.nc") for n in "ab"]
        code, drawn = on_a_terminal(*urls, "-o", str(tmp_path))
    assert code == 0
    seen = screens(drawn)
    both = [one for one in seen if sum("\u2501" in line for line in one) == 2]
    totals = [line for one in both for line in one if " of 2 files" in line]
    assert totals
    assert any("of 12.0 MiB" in total for total in totals)  # both have begun: all is known
    # How often it is drawn, and so when first with a rate, is the machine's business.
    drawn_lines = [line for one in seen for line in one]
    assert any("iB/s" in line for line in drawn_lines if " of 2 files" in line)
    assert any(" left" in line for line in drawn_lines if "\u2501" in line)
    assert all(len(line) < 80 for one in seen for line in one)
    last = [line for line in seen[-1] if line]
    assert sorted(last[:2]) == [
        "done: `a.nc` (6.0 MiB, size checked, no digest known)",
        "done: `b.nc` (6.0 MiB, size checked, no digest known)",
    ]
    assert last[2].startswith("2 done, 0 skipped, 0 failed: 12.0 MiB received in")
    assert len(last) == 3
    assert drawn.rstrip().endswith(last[2])
    assert drawn.count("\x1b[?25l") == drawn.count("\x1b[?25h") == 1  # the cursor is back


def test_a_terminal_shows_retries_and_hosts_that_are_waited_for(tmp_path: Path) -> None:
    busy = Status(503, retry_after=2, limit=1)
    with hf.chaos.server(Object("/a", 10, faults=[busy])) as server:
        code, drawn = on_a_terminal(server.url("/a"), "-o", str(tmp_path))
    assert code == 0
    lines = [line for one in screens(drawn) for line in one]
    assert any("waits 2 s: http 503" in line and "1 retry" in line for line in lines)
    assert any(line.startswith("127.0.0.1 asked to wait, 2 s more: throttled") for line in lines)


def test_a_terminal_gets_no_line_for_each_of_many_files_but_for_those_that_fail(
    tmp_path: Path,
) -> None:
    with hf.chaos.server(*(Object(f"/{n}", 100) for n in range(60))) as server:
        lines = [server.url(f"/{n}") for n in range(60)] + [server.url("/gone")]
        (tmp_path / "list").write_text("\n".join(lines))
        out = str(tmp_path / "out")
        code, drawn = on_a_terminal("-i", str(tmp_path / "list"), "-o", out)
    assert code == 1
    assert "done: `" not in drawn
    last = [line for line in screens(drawn)[-1] if line]
    assert last[0] == "error: `gone`: the server does not have it (status: 404)"
    assert last[1] == "  Check the path of the URL. [HF-1301]"
    assert last[2].startswith("60 done, 0 skipped, 1 failed")


def test_colour_is_for_terminals_that_want_it(tmp_path: Path) -> None:
    with hf.chaos.server() as server:
        _, drawn = on_a_terminal(server.url("/x"), "-o", str(tmp_path / "a"))
        assert "\x1b[31merror:\x1b[0m" in drawn
        for n, env in enumerate(({"NO_COLOR": "1"}, {"TERM": "dumb"})):
            _, plain = on_a_terminal(server.url("/x"), "-o", str(tmp_path / str(n)), **env)
            assert "error: `x`" in plain
            assert "\x1b" not in plain


def test_without_rich_a_terminal_gets_plain_lines_and_is_told_how_to_get_more(
    tmp_path: Path,
) -> None:
    # A module that is None in `sys.modules` cannot be imported, as if it were not installed.
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['rich'] = None\n")
    with hf.chaos.server(Object("/a", 10)) as server:
        code, drawn = on_a_terminal(
            server.url("/a"), "-o", str(tmp_path / "out"), PYTHONPATH=f"{tmp_path}:{_path()}"
        )
    assert code == 0
    assert drawn.count("pip install 'holdfast[cli]'") == 1
    assert "done: `a` (10 B" in drawn
    assert "\x1b" not in drawn


def _path() -> str:
    import os  # noqa: PLC0415 - here only

    return os.environ.get("PYTHONPATH", "")


def test_a_terminal_without_a_terminal_for_results_gets_each_of_them_in_the_file(
    tmp_path: Path,
) -> None:
    with hf.chaos.server(*(Object(f"/{n}", 100) for n in range(40))) as server:
        (tmp_path / "list").write_text("\n".join(server.url(f"/{n}") for n in range(40)))
        done = get("-i", str(tmp_path / "list"), "-o", str(tmp_path / "out"))
    assert sum(line.startswith("done: `") for line in done.stdout.splitlines()) == 40


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    return Terminal()


def test_names_and_texts_from_the_net_cannot_steer_the_terminal(terminal: Terminal) -> None:
    name = "\x1b]0;gone\x07\u202ex"
    with Display(Console(out=terminal, err=terminal)) as display:
        display.expect(2, None)
        display.listing(f"listing s3://{name}")
        time.sleep(0.5)
        display.listing("")
        for n in range(2):
            display.heard(ItemEvent(str(n), name, state("active")))
        held = events.EndpointState(time=0, key=name, state="held", reason="x", until=1e12)
        display.heard(ItemEvent("", "", held))
        time.sleep(0.5)
        display.heard(ItemEvent("0", name, state("done", size=1)))
        display.heard(ItemEvent("1", name, state("failed", reason="digest", text=name)))
    drawn = terminal.getvalue()
    assert drawn.count("\\x1b]0;gone\\x07\\u202ex") >= 5
    for byte in ("\x1b]", "\x07", "\u202e"):
        assert byte not in drawn


def test_the_display_costs_little_for_many_small_files(terminal: Terminal) -> None:
    with Display(Console(out=terminal, err=terminal)) as display:
        display.expect(5000, None)
        began = time.thread_time()
        for n in range(5000):
            for name in ("active", "verifying", "finishing"):
                display.heard(ItemEvent(f"{n:016x}", f"{n}", state(name)))
            display.heard(ItemEvent(f"{n:016x}", f"{n}", state("done", size=100)))
        assert (time.thread_time() - began) / 5000 < 200e-6  # 13e-6 on a quiet machine


# -- plain lines -----------------------------------------------------------------------------------


def test_plain_output_tells_waits_resumes_and_a_total_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.cli.progress.PLAIN_EVERY", 0.0)
    out, err = io.StringIO(), io.StringIO()
    cut = Reset(after_bytes=100 * KIB, limit=1)
    with (
        hf.chaos.server(Object("/a", 300 * KIB, faults=[cut])) as server,
        hf.Downloads(tmp_path) as downloads,
        Display(Console(out=out, err=err)) as display,
    ):
        downloads.watch(display.heard)
        downloads.add(server.url("/a"))
        display.expect(1, None)
        assert downloads.run().done == 1
    assert out.getvalue() == "done: `a` (300 KiB, size checked, no digest known)\n"
    assert "a: ECONNRESET; waits" in err.getvalue()
    assert "a: goes on at 100 KiB" in err.getvalue()
    assert "0 of 1 file   " in err.getvalue()
    assert "\x1b" not in out.getvalue() + err.getvalue()


# -- JSON ------------------------------------------------------------------------------------------

NUMBER = (int, float)
TYPES: dict[str, Any] = {
    "state": str, "reason": str, "code": str, "text": str, "size": (int, type(None)),
    "verified": str, "no": int, "verdict": str, "sent": str, "seconds": NUMBER, "host": str,
    "why": str, "rung": str, "offset": int, "bytes": int, "rate": NUMBER,
    "eta": (*NUMBER, type(None)), "limit": (int, type(None)), "until": (*NUMBER, type(None)),
    "name": str, "cleared": bool, "source": str, "objects": int, "seen": int, "ended": bool,
}  # fmt: skip


def test_every_event_of_a_troubled_run_has_the_documented_fields(tmp_path: Path) -> None:
    cut = Reset(after_bytes=100 * KIB, limit=1)
    busy = Status(503, retry_after=1, limit=1)
    objects = (Object("/a", 300 * KIB, faults=[cut]), Object("/b", 10, faults=[busy]))
    with hf.chaos.server(*objects) as server:
        urls = [server.url(path) for path in ("/a", "/b", "/gone")]
        done = get(*urls, "-o", str(tmp_path), "--json")
    assert done.returncode == 1
    assert done.stderr == ""
    told = events_of(done)
    assert {event["event"] for event in told} == {
        "FileState",
        "Attempt",
        "Waited",
        "ResumeAccepted",
        "Progress",
        "EndpointState",
        "Report",
    }
    for event in told[:-1]:
        kind = event.pop("event")
        assert event.pop("v") == 1
        assert abs(event.pop("t") - time.time()) < 60
        if kind != "EndpointState":
            assert len(event.pop("id")) == 16
            assert event.pop("path") in {"a", "b", "gone"}
        always, sometimes = SCHEMA[kind]
        assert set(always) <= set(event) <= set(always) | set(sometimes), kind
        for name, value in event.items():
            assert isinstance(value, TYPES[name]), (kind, name, value)
        if kind == "EndpointState" and event["until"] is not None:
            assert abs(event["until"] - time.time()) < 60  # wall time, as `t`
    report = told[-1]
    assert (report["event"], report["exit_code"], report["done"]) == ("Report", 1, 2)
    (failed,) = report["failed"]
    assert set(failed) == {"id", "path", "url", "code", "reason", "text", "attempts", "at"}


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (
            events.Alert(time=0, policy="downloads", name="disk", text="full"),
            {"name": "disk", "text": "full", "cleared": False},
        ),
        (
            events.ResumeDeclined(time=0, key="h", reason="changed", offset=5),
            {"reason": "changed", "offset": 5, "host": "h"},
        ),
        (
            events.EndpointState(time=0, key="h", state="limited", reason="room", limit=5),
            {"host": "h", "limit": 5, "until": None, "state": "limited", "reason": "room"},
        ),
        (
            ListingPage(time=0, objects=2, bytes=9, seen=7),
            {"source": "s3://b/p/", "objects": 2, "bytes": 9, "seen": 7, "ended": False},
        ),
        (events.GaveUp(time=0, reason="attempts", attempts=3, seconds=1.0), None),
    ],
)
def test_events_that_are_rare_have_their_fields_too(
    event: events.Event, told: dict[str, object] | None
) -> None:
    assert event_fields(ItemEvent("", "s3://b/p/", event)) == told


def test_progress_comes_twice_a_second_at_most(tmp_path: Path) -> None:
    with hf.chaos.server(Object("/a", 3 * MIB, faults=[Slow(2 * MIB)])) as server:
        done = get(server.url("/a"), "-o", str(tmp_path), "--json")
    times = [event["t"] for event in events_of(done) if event["event"] == "Progress"]
    assert len(times) >= 2
    assert min(b - a for a, b in pairwise(times)) > 0.4


def test_a_reader_that_goes_away_ends_it_without_a_traceback(tmp_path: Path) -> None:
    with hf.chaos.server(*(Object(f"/{n}", 10) for n in range(40))) as server:
        (tmp_path / "list").write_text("\n".join(server.url(f"/{n}") for n in range(40)))
        words = command("-i", str(tmp_path / "list"), "-o", str(tmp_path / "out"), "--json")
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.readline()
            process.stdout.close()
            assert b"Traceback" not in process.stderr.read()


# -- the board ---------------------------------------------------------------------------------


def test_the_board_counts_files_bytes_and_what_is_left() -> None:
    board = Board(files=3, size=3000)
    for n, event in [
        (1, state("active")),
        (1, events.Progress(time=0, bytes=400, size=1000, rate=100.0, eta=6.0)),
        (2, state("active")),
        (2, events.ResumeAccepted(time=0, rung="if-match", offset=500)),
        (2, events.Progress(time=0, bytes=600, size=1000)),
    ]:
        board.take(ItemEvent(str(n), f"f{n}", event))
    assert (board.on_disk, board.received) == (1000, 500)  # 500 were there before
    board.look(0.0)
    board.take(ItemEvent("1", "f1", state("done", size=1000)))
    board.look(2.0)
    assert (board.on_disk, board.rate, board.eta) == (1600, 300.0, 1400 / 300)
    assert board.total_text() == "1 of 3 files   1.6 KiB of 2.9 KiB   300 B/s   5 s left"
    board.take(ItemEvent("2", "f2", state("failed", reason="digest")))
    assert (board.failed, board.on_disk, list(board.rows)) == (1, 1000, [])
    assert "1 failed" in board.total_text()


def test_the_rate_is_that_of_the_last_ten_seconds() -> None:
    board = Board(files=1)
    for second, at in ((0.0, 0), (1.0, 10_000), (12.0, 10_000), (14.0, 10_300)):
        board.take(ItemEvent("1", "f", events.Progress(time=second, bytes=at, size=20_000)))
        board.look(second)
    assert board.rate == 150.0


def test_files_that_are_there_already_are_counted_beside_the_plan() -> None:
    board = Board(files=1, size=100)
    for n in range(3):
        board.take(ItemEvent(str(n), f"f{n}", state("skipped", size=50)))
    board.take(ItemEvent("9", "new", state("active")))
    assert (board.files, board.size, board.ended) == (4, 250, 3)


def test_a_file_that_goes_on_after_a_full_disk_is_counted_once() -> None:
    board = Board(files=2)
    board.take(ItemEvent("1", "f", state("active")))
    board.take(ItemEvent("1", "f", state("paused", reason="disk")))
    assert (board.stopped, board.ended) == (1, 1)
    board.take(ItemEvent("1", "f", state("active")))
    board.take(ItemEvent("1", "f", state("done", size=5)))
    assert (board.stopped, board.done, board.ended) == (0, 1, 1)


def test_a_row_says_why_it_waits() -> None:
    board = Board(files=1)
    for event in (
        state("active"),
        events.Attempt(time=0, no=1, kind="transient", seconds=1.0, reason="ECONNRESET"),
        events.Waited(time=0, seconds=4.0, why="backoff", next_at=4.0),
    ):
        row = board.take(ItemEvent("1", "f", event))
    assert row_text(row, 0.0).split("  ") == [" 0 B", "waits 4 s: ECONNRESET", "1 retry"]
    assert row_text(row, 5.0).split("  ") == [" 0 B", "ECONNRESET", "1 retry"]


def test_memory_of_the_board_is_bounded_by_what_is_under_way() -> None:
    board = Board(files=1000)
    for n in range(1000):
        board.take(ItemEvent(str(n), "f", state("active")))
        board.take(ItemEvent(str(n), "f", state("done", size=1)))
        host = events.EndpointState(time=0, key=f"h{n}", state="held", reason="x", until=1e9)
        board.take(ItemEvent("", "", host))
    assert (len(board.rows), len(board.held)) == (0, 100)


def test_json_is_written_whole_by_many_threads(tmp_path: Path) -> None:
    with hf.chaos.server(*(Object(f"/{n}", 50_000) for n in range(60))) as server:
        (tmp_path / "list").write_text("\n".join(server.url(f"/{n}") for n in range(60)))
        done = subprocess.run(
            [sys.executable, "-m", "holdfast", "get", "-i", str(tmp_path / "list"), "-o",
             str(tmp_path / "out"), "--json", "--plane", "threads"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    assert [json.loads(line)["v"] for line in done.stdout.splitlines()]
