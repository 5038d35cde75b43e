"""Log lines: levels, fields, repetitions, rate, JSON, and nothing configured behind your back."""

from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
from datetime import datetime

import pytest

import holdfast as hf
from holdfast.core import events
from holdfast.runtime.hub import hub


@pytest.fixture
def clock():
    with hf.testing.clock(auto=False) as clock:
        yield clock


@pytest.fixture
def lines(request):
    """Return the records of a logger of this test's own; `lines.logger` is it."""

    class Lines(list):
        logger = logging.Logger(request.node.name, logging.DEBUG)  # noqa: LOG001 - of its own

        def said(self):
            return [record.getMessage() for record in self]

    found = Lines()
    handler = logging.Handler()
    handler.emit = found.append
    found.logger.addHandler(handler)
    return found


def attempt(no=1, kind="transient", **more):
    return events.Attempt(
        time=0.0, policy="api", key="h", call_id=7, no=no, kind=kind, seconds=0.3125, **more
    )


def fail():
    raise ConnectionResetError("gone")


@pytest.mark.parametrize(
    ("event", "level", "said"),
    [
        (attempt(kind="ok"), "DEBUG", "api[h]: attempt 1: ok, sent: yes, 0.312 s"),
        (
            attempt(2, sent="maybe", reason="ECONNRESET"),
            "INFO",
            "api[h]: attempt 2: transient, sent: maybe, 0.312 s, ECONNRESET",
        ),
        (
            events.Waited(time=0, policy="api", seconds=1.5, why="backoff", next_at=2),
            "DEBUG",
            "api: waits 1.5 s: backoff",
        ),
        (
            events.GaveUp(time=0, policy="api", reason="budget", attempts=2, seconds=4),
            "WARNING",
            "api: gave up: budget, attempts: 2, 4 s",
        ),
        (
            events.Refused(time=0, policy="api", kind="RateLimited"),
            "INFO",
            "api: refused: RateLimited",
        ),
        (
            events.CircuitOpened(time=0, policy="api", gen=1, why="5 in a row", until=9),
            "WARNING",
            "api: circuit opened: 5 in a row",
        ),
        (
            events.CircuitHalfOpened(time=0, policy="api", gen=1, why="due", until=9),
            "INFO",
            "api: circuit half-open: due",
        ),
        (
            events.CircuitClosed(time=0, policy="api", gen=1, why="probes", until=math.inf),
            "INFO",
            "api: circuit closed: probes",
        ),
        (
            events.Hedged(time=0, policy="api", no=1, hedge=1, after=0.5, budget_left=3),
            "INFO",
            "api: attempt 1 is sent once more after 0.5 s",
        ),
        (
            events.LimitChanged(
                time=0, policy="api", what="rate", before=None, limit=2.5, why="throttled"
            ),
            "INFO",
            "api: the rate limit is now 2.5: throttled",
        ),
        (events.Alert(time=0, name="a", text="b"), "ERROR", "holdfast: alert a: b"),
        (
            events.Alert(time=0, name="a", text="b", cleared=True),
            "WARNING",
            "holdfast: alert a: b (over)",
        ),
        (
            events.Unclassified(time=0, policy="api", type="m.E"),
            "WARNING",
            "api: no table knows the exception type m.E",
        ),
        (
            events.Progress(time=0, policy="downloads", bytes=5),
            "DEBUG",
            "downloads: Progress, bytes: 5, size: None, rate: 0.0, eta: None",
        ),
        (
            events.ResumeAccepted(time=0, policy="d", rung="strong-etag", offset=5),
            "INFO",
            "d: goes on at 5 bytes: strong-etag",
        ),
        (
            events.ResumeDeclined(time=0, policy="d", reason="changed", offset=5),
            "INFO",
            "d: starts over, 5 bytes are lost: changed",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, events.Event) else None,
)
def test_each_event_has_its_level_and_words(clock, lines, event, level, said):
    stop = hf.telemetry.log_to(lines.logger)
    hub.publish(event)
    stop()
    assert lines.said() == [said]
    assert lines[0].levelname == level


def test_a_line_carries_the_fields_of_its_event(clock, lines):
    stop = hf.telemetry.log_to(lines.logger)
    hub.publish(attempt(2, sent="maybe", reason="ECONNRESET"))
    stop()
    extra = {name: value for name, value in vars(lines[0]).items() if name.startswith("hf_")}
    assert extra == {
        "hf_event": "Attempt", "hf_policy": "api", "hf_key": "h", "hf_call_id": 7, "hf_no": 2,
        "hf_kind": "transient", "hf_sent": "maybe", "hf_seconds": 0.3125, "hf_reused": False,
        "hf_reason": "ECONNRESET", "hf_hedge": 0, "hf_repeated": 0,
    }  # fmt: skip


def test_a_whole_call_is_told_in_order(lines):
    with hf.testing.clock() as clock:
        clock.random(1.0)
        stop = hf.telemetry.log_to(lines.logger)
        hf.policy(hf.Retry(2), name="api").outcome(fail)
        stop()
    assert lines.said() == [
        "api: attempt 1: transient, sent: maybe, 0 s, ECONNRESET",
        "api: waits 0.05 s: backoff",
        "api: gave up: attempts, attempts: 2, 0.05 s",
        "api: attempt 1: transient, sent: maybe, 0 s, ECONNRESET (repeated 1 times)",
    ]


def test_what_the_logger_or_the_caller_does_not_want_is_not_written(clock, lines):
    stop = hf.telemetry.log_to(lines.logger, level=logging.WARNING)
    hub.publish(attempt())
    stop()
    lines.logger.setLevel(logging.ERROR)
    stop = hf.telemetry.log_to(lines.logger)
    hub.publish(attempt())
    hub.publish(events.GaveUp(time=0, policy="p", reason="budget", attempts=1, seconds=1))
    stop()
    assert lines == []


def test_repetitions_are_counted_and_told_with_the_next_line(clock, lines):
    stop = hf.telemetry.log_to(lines.logger, repeat=10)
    for n in range(38):
        hub.publish(attempt(n))
    assert len(lines) == 1
    clock.advance(10)
    hub.publish(attempt(kind="timeout"))
    assert len(lines) == 3
    assert lines[1].getMessage().endswith("(repeated 37 times)")
    assert lines[1].hf_repeated == 37
    hub.publish(attempt())
    assert len(lines) == 4
    hub.publish(attempt())
    stop()
    assert lines[4].hf_repeated == 1
    hub.publish(attempt())
    assert len(lines) == 5


def test_lines_that_differ_in_words_are_no_repetitions(clock, lines):
    stop = hf.telemetry.log_to(lines.logger)
    for reason in ("ECONNRESET", "EPIPE", "http 503"):
        for key in "ab":
            hub.publish(events.Attempt(time=0, key=key, no=1, kind="x", seconds=1, reason=reason))
    stop()
    assert len(lines) == 6


def test_memory_for_repetitions_is_bounded_and_loses_no_count(clock, lines):
    stop = hf.telemetry.log_to(lines.logger, rate=10_000, burst=10_000)
    for n in range(1000):
        for _ in range(2):
            hub.publish(events.Refused(time=0, policy=f"p{n}", kind="RateLimited"))
    stop()
    assert len(lines) == 2000
    assert sum(record.hf_repeated for record in lines) == 1000


def test_too_many_lines_are_left_out_and_counted(clock, lines):
    stop = hf.telemetry.log_to(lines.logger, rate=1, burst=5)
    for n in range(105):
        hub.publish(events.Refused(time=0, policy=f"p{n}", kind="RateLimited"))
    assert len(lines) == 5
    clock.advance(1)
    hub.publish(events.Refused(time=0, policy="late", kind="RateLimited"))
    assert lines.said()[5:] == ["late: refused: RateLimited", "holdfast: 100 lines were left out"]
    assert (lines[-1].hf_event, lines[-1].hf_lines, lines[-1].levelname) == (
        "LinesLeftOut", 100, "WARNING",
    )  # fmt: skip
    stop()


@pytest.mark.parametrize("wrong", [{"repeat": 0}, {"rate": -1}, {"burst": 0}, {"rate": math.nan}])
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        hf.telemetry.log_to(**wrong)


def test_above_debug_good_calls_stay_on_the_fast_path(lines):
    stop = hf.telemetry.log_to(lines.logger, level=logging.INFO)
    try:
        assert not hub.watched
        hf.policy(hf.Retry(2)).call(int)
    finally:
        stop()
    assert lines == []


def test_good_calls_of_the_fast_path_have_a_line_at_debug(lines):
    policy = hf.policy(hf.Retry(2), name="api")
    for _ in range(50):
        policy.call(int)
    stop = hf.telemetry.log_to(lines.logger)
    policy.call(int)
    stop()
    assert [line.split(",")[0] for line in lines.said()] == ["api: attempt 1: ok"]


def test_control_characters_and_secrets_do_not_reach_a_line(clock, lines):
    stop = hf.telemetry.log_to(lines.logger)
    why = "read\r\nFAKE 2026 line \x1b[31m https://u:hunter2@h/?sig=abcdef"
    hub.publish(events.CircuitOpened(time=0, policy="a\nb", key="k\x00", gen=1, why=why, until=1))
    stop()
    said = lines.said()[0]
    assert said.isprintable()
    assert "hunter2" not in said
    assert "abcdef" not in str(vars(lines[0]))


def test_a_long_line_is_cut(clock, lines):
    stop = hf.telemetry.log_to(lines.logger)
    hub.publish(events.Alert(time=0, name="a", text="x" * 100_000))
    stop()
    assert len(lines.said()[0]) == 2000


def formatted(record):
    line = hf.telemetry.JsonFormatter().format(record)
    assert "\n" not in line
    assert line.isprintable()
    return json.loads(line)


def test_a_json_line_has_the_fields_without_their_prefix(clock, lines):
    stop = hf.telemetry.log_to(lines.logger)
    hub.publish(events.CircuitClosed(time=0, policy="api", gen=3, why="probes", until=math.inf))
    stop()
    line = formatted(lines[0])
    assert datetime.fromisoformat(line.pop("time")).timestamp() == pytest.approx(
        lines[0].created, abs=0.0011
    )
    assert line.pop("logger").startswith("test_a_json_line")
    assert line == {
        "level": "INFO", "message": "api: circuit closed: probes", "event": "CircuitClosed",
        "policy": "api", "key": "", "call_id": 0, "gen": 3, "why": "probes", "until": None,
        "repeated": 0,
    }  # fmt: skip


def test_a_json_line_of_a_foreign_record_is_redacted_too(lines):
    try:
        int("https://u:hunter2@h/")
    except ValueError:
        lines.logger.exception("call\nto %s", "https://h/?token=abcdef")
    lines.logger.info("wrong %d arguments", "x")
    first, second = map(formatted, lines)
    assert first["message"] == "call\nto https://h/?token=***"
    assert first["error"].startswith("ValueError: invalid literal")
    assert "https://***@h/" in first["error"]
    assert second["message"] == "wrong %d arguments"
    assert "hunter2" not in str(first)


def test_the_library_writes_nothing_unless_asked():
    code = (
        "import logging, holdfast as hf\n"
        "import holdfast.telemetry.logs\n"
        "log = logging.getLogger('holdfast')\n"
        "assert [type(h).__name__ for h in log.handlers] == ['NullHandler'], log.handlers\n"
        "assert (log.level, log.propagate) == (logging.NOTSET, True)\n"
        "assert not logging.getLogger().handlers\n"
        "stop = hf.telemetry.log_to()\n"
        "hf.policy(hf.Retry(1)).outcome(lambda: 1 / 0)\n"
        "stop()\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")
